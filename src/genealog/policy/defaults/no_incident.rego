# METADATA
# title: No incident
# description: No open incident holds this deployment or one of its models.
# custom:
#   points: deploy promote
#   codes: incident-open incidents-unchecked
#   breakable: true
package genealog.policies.no_incident

import rego.v1

default applies := true

default allow := false

allow if {
	input.incidents.checked == true
	input.incidents.open == 0
}

reasons contains {"code": "incidents-unchecked", "message": "nobody looked whether an incident holds this"} if {
	not input.incidents.checked == true
}

reasons contains {"code": "incident-open", "message": "an open incident holds this deployment or a model of it"} if {
	not input.incidents.open == 0
}
