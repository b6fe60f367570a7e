# METADATA
# title: Registered and signed
# description: Every model is registered, somebody whose key counts has signed it, and no signature over it is false.
# custom:
#   points: deploy load serve promote
#   codes: unregistered-model model-not-signed signature-contradicted facts-missing
#   breakable: false
package genealog.policies.registered

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	lib.whole
	every model in lib.models {
		model.registered == true
		signed(model)
		model.signed.contradicted == 0
	}
}

signed(model) if {
	some who in lib.list(model.signed.own)
	lib.text(who)
}

signed(model) if {
	some who in lib.list(model.signed.foreign)
	lib.text(who)
}

reasons contains {"code": "unregistered-model", "message": sprintf("%s is not registered", [lib.name(model)])} if {
	some model in lib.models
	not model.registered == true
}

reasons contains {"code": "model-not-signed", "message": sprintf("nobody whose key counts signed %s", [lib.name(model)])} if {
	some model in lib.models
	not signed(model)
}

reasons contains {"code": "signature-contradicted", "message": sprintf("a signature over %s is false", [lib.name(model)])} if {
	some model in lib.models
	not model.signed.contradicted == 0
}

reasons contains lost if some lost in lib.lost
