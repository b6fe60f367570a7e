package genealog.policies.registered_test

import rego.v1

import data.genealog.policies.registered

allowed(document) if {
	registered.applies == true with input as document
	registered.allow == true with input as document
	registered.reasons == set() with input as document
}

denied(document) := codes if {
	registered.applies == true with input as document
	registered.allow == false with input as document
	codes := {reason.code | some reason in registered.reasons} with input as document
}

about(changes) := {"subject": {"models": 1}, "models": [object.union(good, changes)]}

good := {"name": "acme/a", "registered": true, "signed": {"own": ["alice"], "foreign": [], "contradicted": 0}}

test_allows if allowed(about({}))

test_allows_a_foreign_signer if allowed(about({"signed": {"own": [], "foreign": ["vendor@example.com"]}}))

test_unregistered if denied(about({"registered": false})) == {"unregistered-model"}

test_unsigned if denied(about({"signed": {"own": []}})) == {"model-not-signed"}

test_nameless_vendor if denied(about({"signed": {"own": [], "foreign": [""]}})) == {"model-not-signed"}

test_nameless_signer if denied(about({"signed": {"own": [""]}})) == {"model-not-signed"}

test_contradicted if denied(about({"signed": {"contradicted": 1}})) == {"signature-contradicted"}

test_lost_model if denied({"subject": {"models": 2}, "models": [good]}) == {"facts-missing"}

test_no_model if denied({"subject": {"models": 0}, "models": []}) == {"facts-missing"}
