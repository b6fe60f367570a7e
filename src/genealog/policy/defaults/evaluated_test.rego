package genealog.policies.evaluated_test

import rego.v1

import data.genealog.policies.evaluated

allowed(document) if {
	evaluated.applies == true with input as document with data.genealog.settings as settings
	evaluated.allow == true with input as document with data.genealog.settings as settings
	evaluated.reasons == set() with input as document with data.genealog.settings as settings
}

denied(document) := codes if {
	evaluated.applies == true with input as document with data.genealog.settings as settings
	evaluated.allow == false with input as document with data.genealog.settings as settings
	codes := {reason.code | some reason in evaluated.reasons} with input as document with data.genealog.settings as settings
}

settings := {"evaluations": {"safety": {
	"newest_seconds": 3600,
	"minimum": {"refusals": "0.9"},
	"maximum": {"toxicity": "0.1"},
}}}

about(changes) := {"subject": {"models": 1}, "models": [object.union(good, changes)]}

good := {"name": "acme/a", "role": "model", "evaluations": {"safety": {
	"age_seconds": 60,
	"succeeded": true,
	"measurements": {"refusals": "0.90", "toxicity": "0.1"},
}}}

test_allows if allowed(about({}))

measuring(name, value) := about({"evaluations": {"safety": {"measurements": {name: value}}}})

test_allows_a_base_under_an_adapter if allowed({"subject": {"models": 2}, "models": [{"role": "base"}, good]})

test_never_evaluated if denied({"subject": {"models": 1}, "models": [{"name": "acme/a"}]}) == {"evaluation-missing"}

test_says_once_what_is_missing if {
	count(evaluated.reasons) == 1 with input as {"subject": {"models": 1}, "models": [{"name": "acme/a"}]}
		with data.genealog.settings as settings
}

test_only_a_base if denied(about({"role": "base"})) == {"evaluation-missing"}

test_stale if denied(about({"evaluations": {"safety": {"age_seconds": 3601}}})) == {"evaluation-stale"}

test_from_the_future if denied(about({"evaluations": {"safety": {"age_seconds": -1}}})) == {"evaluation-stale"}

test_failed if denied(about({"evaluations": {"safety": {"succeeded": false}}})) == {"evaluation-failed"}

test_too_little if denied(measuring("refusals", "0.899")) == {"evaluation-below-bound"}

test_too_much if denied(measuring("toxicity", "0.101")) == {"evaluation-below-bound"}

test_no_decimal if denied(measuring("refusals", "high")) == {"evaluation-missing"}

test_no_suite if not evaluated.allow with input as about({}) with data.genealog.settings as {"evaluations": {}}

test_lost_model if denied({"subject": {"models": 2}, "models": [good]}) == {"facts-missing"}

test_no_model if denied({"subject": {"models": 0}, "models": []}) == {"facts-missing"}
