package genealog.policies.traceable_test

import rego.v1

import data.genealog.policies.traceable

allowed(document) if {
	traceable.applies == true with input as document
	traceable.allow == true with input as document
	traceable.reasons == set() with input as document
}

denied(document) := codes if {
	traceable.applies == true with input as document
	traceable.allow == false with input as document
	codes := {reason.code | some reason in traceable.reasons} with input as document
}

test_allows if allowed({"output": {"recorded": true, "lineage_complete": true}})

test_unrecorded if denied({"output": {"recorded": false, "lineage_complete": true}}) == {"output-not-recorded"}

test_without_lineage if denied({"output": {"recorded": true, "lineage_complete": false}}) == {"output-without-lineage"}

test_nothing if denied({}) == {"output-not-recorded", "output-without-lineage"}
