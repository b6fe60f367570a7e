package genealog.policies.minimum_assurance_test

import rego.v1

import data.genealog.policies.minimum_assurance

allowed(document) if {
	minimum_assurance.applies == true with input as document
	minimum_assurance.allow == true with input as document
	minimum_assurance.reasons == set() with input as document
}

denied(document) := codes if {
	minimum_assurance.applies == true with input as document
	minimum_assurance.allow == false with input as document
	codes := {reason.code | some reason in minimum_assurance.reasons} with input as document
}

at(point, wanted, reached) := {
	"point": point,
	"env": {"minimum_assurance": 2},
	"serving": {"minimum_assurance": wanted, "assurance": reached},
	"output": {"assurance": reached},
}

test_allows_before_anything_serves if allowed(at("deploy", 2, -1))

test_allows_a_promotion if allowed(at("promote", 3, -1))

test_allows_a_call if allowed(at("serve", 3, 3))

test_allows_an_answer if allowed(at("release", 2, 4))

test_demands_too_little if denied(at("deploy", 1, -1)) == {"assurance-too-low"}

test_bound_too_low if denied(at("serve", 3, 2)) == {"assurance-too-low"}

test_answered_too_low if denied(at("release", 3, 2)) == {"assurance-too-low"}

test_a_call_that_demands_too_little if denied(at("serve", 1, 4)) == {"assurance-too-low"}

test_an_answer_that_demands_too_little if denied(at("release", 1, 4)) == {"assurance-too-low"}

test_only_what_serves_counts_for_a_call if denied(object.union(at("serve", 2, 4), {"serving": {"assurance": 1}})) == {"assurance-too-low"}

test_only_the_answer_counts_for_an_answer if denied(object.union(at("release", 2, 4), {"output": {"assurance": 1}})) == {"assurance-too-low"}

test_load_is_no_point_of_it if denied(at("load", 2, 4)) == set()

test_text_is_no_level if denied(at("serve", "4", "4")) == {"assurance-too-low"}
