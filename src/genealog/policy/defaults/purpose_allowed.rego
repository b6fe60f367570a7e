# METADATA
# title: Purpose allowed
# description: A call says what it is for and of which class its data is, and every model is assessed for both.
# custom:
#   points: serve
#   codes: purpose-missing purpose-not-allowed data-class-not-allowed facts-missing
#   breakable: true
package genealog.policies.purpose_allowed

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	lib.whole
	named
	every model in lib.models {
		for_purpose(model)
		for_data(model)
	}
}

named if lib.text(input.call.purpose)

for_purpose(model) if input.call.purpose in lib.list(model.purposes)

for_data(model) if {
	lib.text(input.call.data_class)
	input.call.data_class in lib.list(model.data_classes)
}

reasons contains {"code": "purpose-missing", "message": "the call does not say what it is for"} if not named

reasons contains {"code": "purpose-not-allowed", "message": sprintf("%s is not assessed for what the call is for", [lib.name(model)])} if {
	named
	some model in lib.models
	not for_purpose(model)
}

reasons contains {"code": "data-class-not-allowed", "message": sprintf("%s is not assessed for the data of the call", [lib.name(model)])} if {
	some model in lib.models
	not for_data(model)
}

reasons contains lost if some lost in lib.lost
