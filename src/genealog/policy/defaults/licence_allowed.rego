# METADATA
# title: Licence allowed
# description: Every model has a licence that the settings name.
# custom:
#   points: deploy promote
#   codes: licence-not-allowed licence-unknown facts-missing
#   breakable: true
package genealog.policies.licence_allowed

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	lib.whole
	every model in lib.models {
		permitted(model)
	}
}

known(model) if lib.text(model.licence)

permitted(model) if {
	known(model)
	lower(model.licence) in data.genealog.settings.licences
}

reasons contains {"code": "licence-unknown", "message": sprintf("nobody says under which licence %s is", [lib.name(model)])} if {
	some model in lib.models
	not known(model)
}

reasons contains {"code": "licence-not-allowed", "message": sprintf("%s is under %s, which is not allowed here", [lib.name(model), model.licence])} if {
	some model in lib.models
	known(model)
	not permitted(model)
}

reasons contains lost if some lost in lib.lost
