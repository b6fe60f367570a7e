# METADATA
# title: Clean
# description: Each detector of the environment looked at the answer, and none found anything.
# custom:
#   points: release
#   codes: output-alarm output-not-looked-at
#   breakable: true
package genealog.policies.clean

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	input.output.alarms == 0
	looked
}

wanted := lib.list(data.genealog.settings.detectors[input.env.name])

looked if {
	count(wanted) > 0
	every name in wanted {
		name in lib.list(input.output.detectors)
	}
}

# One that found something has looked.
reasons contains {"code": "output-alarm", "message": "a detector found something in the answer"} if {
	not input.output.alarms == 0
}

reasons contains {"code": "output-not-looked-at", "message": "not every detector of the environment has looked at the answer"} if {
	input.output.alarms == 0
	not looked
}
