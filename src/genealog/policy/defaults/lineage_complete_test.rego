package genealog.policies.lineage_complete_test

import rego.v1

import data.genealog.policies.lineage_complete

allowed(document) if {
	lineage_complete.applies == true with input as document
	lineage_complete.allow == true with input as document
	lineage_complete.reasons == set() with input as document
}

denied(document) := codes if {
	lineage_complete.applies == true with input as document
	lineage_complete.allow == false with input as document
	codes := {reason.code | some reason in lineage_complete.reasons} with input as document
}

about(changes) := {"subject": {"models": 1}, "models": [object.union(good, changes)]}

good := {"name": "acme/a", "tier": "high", "lineage": {"complete": true, "to_data": true, "contradicted": 0}}

test_allows if allowed(about({}))

test_incomplete if denied(about({"lineage": {"complete": false}})) == {"lineage-incomplete"}

test_without_data if denied(about({"lineage": {"to_data": false}})) == {"no-data-lineage"}

test_refuted if denied(about({"lineage": {"contradicted": 1}})) == {"lineage-contradicted"}

test_not_assessed if denied(about({"tier": "", "lineage": {"complete": false}})) == {"lineage-incomplete"}

test_one_of_two if denied({
	"subject": {"models": 2},
	"models": [object.union(good, {"lineage": {"to_data": false}}), {"tier": "limited"}],
}) == {"no-data-lineage"}

test_allows_beside_an_exempt_one if allowed({"subject": {"models": 2}, "models": [good, {"tier": "minimal"}]})

test_applies_where_a_model_got_lost if denied({"subject": {"models": 2}, "models": [{"tier": "limited"}]}) == {"facts-missing"}

test_applies_to_high if lineage_complete.applies with input as about({})

test_does_not_apply_to_limited if not lineage_complete.applies with input as about({"tier": "limited"})

test_applies_without_a_tier if lineage_complete.applies with input as about({"tier": ""})

test_lost_model if denied({"subject": {"models": 2}, "models": [good]}) == {"facts-missing"}

test_no_model if denied({"subject": {"models": 0}, "models": []}) == {"facts-missing"}
