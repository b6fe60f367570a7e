package genealog.policies.base_matches_test

import rego.v1

import data.genealog.policies.base_matches

allowed(document) if {
	base_matches.applies == true with input as document
	base_matches.allow == true with input as document
	base_matches.reasons == set() with input as document
}

denied(document) := codes if {
	base_matches.applies == true with input as document
	base_matches.allow == false with input as document
	codes := {reason.code | some reason in base_matches.reasons} with input as document
}

about(changes) := {"subject": {"models": 1}, "models": [object.union(good, changes)]}

good := {"name": "acme/a", "base": {"needed": true, "state": "stated", "matches": true}}

test_allows if allowed(about({}))

test_allows_what_needs_none if allowed(about({"base": {"needed": false, "state": "missing", "matches": false}}))

test_another_base if denied(about({"base": {"matches": false}})) == {"wrong-base"}

test_refuted_base if denied(about({"base": {"needed": false, "state": "contradicted"}})) == {"wrong-base"}

test_names_only_the_one_that_is_wrong if denied({
	"subject": {"models": 2},
	"models": [
		object.union(good, {"base": {"matches": false}}),
		{"name": "acme/base", "base": {"needed": false, "state": "missing"}},
	],
}) == {"wrong-base"}

test_unknown_base if denied(about({"base": {"state": "missing"}})) == {"base-unknown"}

test_unchecked_base if denied(about({"base": {"state": "unchecked"}})) == {"base-unknown"}

test_lost_model if denied({"subject": {"models": 2}, "models": [good]}) == {"facts-missing"}

test_no_model if denied({"subject": {"models": 0}, "models": []}) == {"facts-missing"}
