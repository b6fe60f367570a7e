# METADATA
# title: Four eyes
# description: As many others as the settings say approved exactly this: neither who asks, nor who made or registered a model.
# custom:
#   points: deploy promote
#   codes: approvals-missing
#   breakable: true
package genealog.policies.four_eyes

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

wanted := data.genealog.settings.approvals

approvers := {approval.by |
	some approval in lib.list(input.approvals)
	approval.independent == true
	lib.text(approval.by)
}

allow if {
	lib.at_least(wanted, 1)
	lib.at_least(count(approvers), wanted)
}

reasons contains {"code": "approvals-missing", "message": sprintf("%d of %d approvals of others are there", [count(approvers), wanted])} if {
	not allow
}
