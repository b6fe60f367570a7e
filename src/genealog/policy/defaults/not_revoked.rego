# METADATA
# title: Not revoked
# description: No model is revoked, and none descends from a revoked one unless somebody allowed it.
# custom:
#   points: deploy load serve promote
#   codes: model-revoked model-tainted facts-missing
#   breakable: false
package genealog.policies.not_revoked

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	lib.whole
	every model in lib.models {
		model.revoked == false
		model.tainted == false
	}
}

reasons contains {"code": "model-revoked", "message": sprintf("%s is revoked", [lib.name(model)])} if {
	some model in lib.models
	not model.revoked == false
}

reasons contains {"code": "model-tainted", "message": sprintf("%s descends from a revoked model", [lib.name(model)])} if {
	some model in lib.models
	not model.tainted == false
}

reasons contains lost if some lost in lib.lost
