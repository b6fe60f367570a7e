package genealog.policies.marked_test

import rego.v1

import data.genealog.policies.marked

allowed(document) if {
	marked.applies == true with input as document with data.genealog.settings as settings
	marked.allow == true with input as document with data.genealog.settings as settings
	marked.reasons == set() with input as document with data.genealog.settings as settings
}

denied(document) := codes if {
	marked.applies == true with input as document with data.genealog.settings as settings
	marked.allow == false with input as document with data.genealog.settings as settings
	codes := {reason.code | some reason in marked.reasons} with input as document with data.genealog.settings as settings
}

settings := {"marking": {"shop": ["header"], "bare": [], "blank": [""]}}

at(point, name, marks) := {"point": point, "env": {"name": name, "sink": "public"}, "output": {"marked": marks}}

test_allows if allowed(at("release", "shop", true))

test_unmarked if denied(at("release", "shop", false)) == {"not-marked"}

test_allows_an_environment_with_a_means if allowed(at("deploy", "shop", false))

test_an_environment_without_a_means if denied(at("deploy", "bare", false)) == {"not-marked"}

test_an_environment_with_an_empty_means if denied(at("deploy", "blank", false)) == {"not-marked"}

test_a_mark_before_there_is_an_answer if denied(at("deploy", "bare", true)) == {"not-marked"}

test_an_environment_that_is_unknown if denied(at("promote", "other", false)) == {"not-marked"}

test_applies_to_the_public if marked.applies with input as at("release", "shop", false)

test_does_not_apply_inside if not marked.applies with input as {"env": {"sink": "internal"}}

test_applies_where_nobody_says if marked.applies with input as {}
