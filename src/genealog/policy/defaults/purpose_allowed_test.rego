package genealog.policies.purpose_allowed_test

import rego.v1

import data.genealog.policies.purpose_allowed

allowed(document) if {
	purpose_allowed.applies == true with input as document
	purpose_allowed.allow == true with input as document
	purpose_allowed.reasons == set() with input as document
}

denied(document) := codes if {
	purpose_allowed.applies == true with input as document
	purpose_allowed.allow == false with input as document
	codes := {reason.code | some reason in purpose_allowed.reasons} with input as document
}

good := {"name": "acme/a", "purposes": ["support"], "data_classes": ["public", "internal"]}

about(purpose, class) := {
	"call": {"purpose": purpose, "data_class": class},
	"subject": {"models": 1},
	"models": [good],
}

test_allows if allowed(about("support", "internal"))

test_unsaid if denied(about("", "internal")) == {"purpose-missing"}

test_another_purpose if denied(about("hiring", "internal")) == {"purpose-not-allowed"}

test_another_class if denied(about("support", "health")) == {"data-class-not-allowed"}

test_no_class if denied(about("support", "")) == {"data-class-not-allowed"}

test_nothing_is_no_purpose if denied(object.union(about("", "public"), {"models": [{"purposes": [""], "data_classes": ["public"]}]})) == {"purpose-missing"}

test_nothing_is_no_class if denied(object.union(about("support", ""), {"models": [{"purposes": ["support"], "data_classes": [""]}]})) == {"data-class-not-allowed"}

test_lost_model if denied(object.union(about("support", "public"), {"subject": {"models": 2}})) == {"facts-missing"}
