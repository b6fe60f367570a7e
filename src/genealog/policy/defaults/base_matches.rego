# METADATA
# title: Base matches
# description: An adapter runs on the very base that it was made for, and no model has a base that its bytes refute.
# custom:
#   points: deploy load promote
#   codes: wrong-base base-unknown facts-missing
#   breakable: false
package genealog.policies.base_matches

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	lib.whole
	every model in lib.models {
		fits(model)
	}
}

known := {"proven", "stated", "claimed"}

fits(model) if {
	model.base.needed == false
	model.base.state in known | {"unchecked", "missing"}
}

fits(model) if {
	model.base.state in known
	model.base.matches == true
}

reasons contains {"code": "base-unknown", "message": sprintf("nothing says which base %s was made for", [lib.name(model)])} if {
	some model in lib.models
	not fits(model)
	not told(model)
}

reasons contains {"code": "wrong-base", "message": sprintf("%s was made for another base", [lib.name(model)])} if {
	some model in lib.models
	not fits(model)
	told(model)
}

told(model) if model.base.state in known | {"contradicted"}

reasons contains lost if some lost in lib.lost
