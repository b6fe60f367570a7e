package genealog.policies.not_revoked_test

import rego.v1

import data.genealog.policies.not_revoked

allowed(document) if {
	not_revoked.applies == true with input as document
	not_revoked.allow == true with input as document
	not_revoked.reasons == set() with input as document
}

denied(document) := codes if {
	not_revoked.applies == true with input as document
	not_revoked.allow == false with input as document
	codes := {reason.code | some reason in not_revoked.reasons} with input as document
}

about(changes) := {"subject": {"models": 1}, "models": [object.union(good, changes)]}

good := {"name": "acme/a", "revoked": false, "tainted": false}

test_allows if allowed(about({}))

test_revoked if denied(about({"revoked": true})) == {"model-revoked"}

test_tainted if denied(about({"tainted": true})) == {"model-tainted"}

test_nobody_looked if denied({"subject": {"models": 1}, "models": [{"name": "acme/a"}]}) == {"model-revoked", "model-tainted"}

test_lost_model if denied({"subject": {"models": 2}, "models": [good]}) == {"facts-missing"}

test_no_model if denied({"subject": {"models": 0}, "models": []}) == {"facts-missing"}
