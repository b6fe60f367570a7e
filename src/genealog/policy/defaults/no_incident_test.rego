package genealog.policies.no_incident_test

import rego.v1

import data.genealog.policies.no_incident

allowed(document) if {
	no_incident.applies == true with input as document
	no_incident.allow == true with input as document
	no_incident.reasons == set() with input as document
}

denied(document) := codes if {
	no_incident.applies == true with input as document
	no_incident.allow == false with input as document
	codes := {reason.code | some reason in no_incident.reasons} with input as document
}

test_allows if allowed({"incidents": {"checked": true, "open": 0}})

test_open if denied({"incidents": {"checked": true, "open": 1}}) == {"incident-open"}

test_unchecked if denied({"incidents": {"checked": false, "open": 0}}) == {"incidents-unchecked"}

test_nothing if denied({}) == {"incidents-unchecked", "incident-open"}
