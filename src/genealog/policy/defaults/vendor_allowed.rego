# METADATA
# title: Vendor allowed
# description: Every vendor's model is of a vendor that the settings name.
# custom:
#   points: deploy serve promote
#   codes: vendor-not-allowed facts-missing
#   breakable: true
package genealog.policies.vendor_allowed

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

permitted(model) if {
	model.vendor == ""
	model.role in {"model", "base", "adapter"}
}

permitted(model) if {
	lib.text(model.vendor)
	model.vendor in data.genealog.settings.vendors
}

reasons contains {"code": "vendor-not-allowed", "message": sprintf("%s is of a vendor that is not allowed here", [lib.name(model)])} if {
	some model in lib.models
	not permitted(model)
}

reasons contains lost if some lost in lib.lost
