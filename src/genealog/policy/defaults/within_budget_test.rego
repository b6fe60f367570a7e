package genealog.policies.within_budget_test

import rego.v1

import data.genealog.policies.within_budget

allowed(document) if {
	within_budget.applies == true with input as document
	within_budget.allow == true with input as document
	within_budget.reasons == set() with input as document
}

denied(document) := codes if {
	within_budget.applies == true with input as document
	within_budget.allow == false with input as document
	codes := {reason.code | some reason in within_budget.reasons} with input as document
}

test_allows if allowed({"call": {"budget": true, "budget_left": true}})

test_spent if denied({"call": {"budget": true, "budget_left": false}}) == {"budget-spent"}

test_none if denied({"call": {"budget": false, "budget_left": true}}) == {"budget-missing"}

test_no_call if denied({}) == {"budget-missing"}
