# METADATA
# title: Marked as made by AI
# description: Where the public reads the answers, they say that AI made them (Art. 50 of the AI Act).
# custom:
#   points: deploy release promote
#   codes: not-marked
#   breakable: true
package genealog.policies.marked

import rego.v1

import data.genealog.lib

default applies := true

applies := false if input.env.sink == "internal"

default allow := false

allow if {
	input.point in {"deploy", "promote"}
	some means in lib.list(data.genealog.settings.marking[input.env.name])
	lib.text(means)
}

allow if {
	input.point == "release"
	input.output.marked == true
}

reasons contains {"code": "not-marked", "message": "the public reads the answers, and nothing says that AI made them"} if not allow
