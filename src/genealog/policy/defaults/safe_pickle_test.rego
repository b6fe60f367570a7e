package genealog.policies.safe_pickle_test

import rego.v1

import data.genealog.policies.safe_pickle

allowed(document) if {
	safe_pickle.applies == true with input as document
	safe_pickle.allow == true with input as document
	safe_pickle.reasons == set() with input as document
}

denied(document) := codes if {
	safe_pickle.applies == true with input as document
	safe_pickle.allow == false with input as document
	codes := {reason.code | some reason in safe_pickle.reasons} with input as document
}

about(changes) := {"subject": {"models": 1}, "models": [object.union(good, changes)]}

good := {"name": "acme/a", "role": "model", "pickle": {"scanned": true, "unsafe": 0}}

test_allows if allowed(about({}))

test_allows_a_model_elsewhere if allowed(about({"role": "external", "pickle": {"scanned": false, "unsafe": 1}}))

test_unsafe if denied(about({"pickle": {"unsafe": 1}})) == {"pickle-unsafe"}

test_unchecked if denied(about({"pickle": {"scanned": false}})) == {"pickle-unchecked"}

test_lost_model if denied({"subject": {"models": 2}, "models": [good]}) == {"facts-missing"}

test_no_model if denied({"subject": {"models": 0}, "models": []}) == {"facts-missing"}
