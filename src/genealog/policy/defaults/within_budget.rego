# METADATA
# title: Within budget
# description: Whoever calls has a budget, and something is left of it.
# custom:
#   points: serve
#   codes: budget-missing budget-spent
#   breakable: true
package genealog.policies.within_budget

import rego.v1

default applies := true

default allow := false

allow if {
	input.call.budget == true
	input.call.budget_left == true
}

reasons contains {"code": "budget-missing", "message": "whoever calls has no budget"} if not input.call.budget == true

reasons contains {"code": "budget-spent", "message": "the budget of whoever calls is spent"} if {
	input.call.budget == true
	not input.call.budget_left == true
}
