package genealog.policies.registry_fresh_test

import rego.v1

import data.genealog.policies.registry_fresh

allowed(document) if {
	registry_fresh.applies == true with input as document with data.genealog.settings as settings
	registry_fresh.allow == true with input as document with data.genealog.settings as settings
	registry_fresh.reasons == set() with input as document with data.genealog.settings as settings
}

denied(document) := codes if {
	registry_fresh.applies == true with input as document with data.genealog.settings as settings
	registry_fresh.allow == false with input as document with data.genealog.settings as settings
	codes := {reason.code | some reason in registry_fresh.reasons} with input as document with data.genealog.settings as settings
}

settings := {"registry_age_seconds": 60}

test_allows if allowed({"registry": {"stale": false, "age_seconds": 60}})

test_too_old if denied({"registry": {"stale": false, "age_seconds": 61}}) == {"registry-stale"}

test_out_of_reach if denied({"registry": {"stale": true, "age_seconds": 1}}) == {"registry-stale"}

test_from_the_future if denied({"registry": {"stale": false, "age_seconds": -1}}) == {"registry-stale"}

test_no_age if denied({"registry": {"stale": false, "age_seconds": null}}) == {"registry-stale"}
