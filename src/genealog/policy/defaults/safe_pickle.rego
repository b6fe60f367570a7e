# METADATA
# title: No unsafe pickle
# description: The pickles of every model were read without running them, and call nothing that is not on the list.
# custom:
#   points: deploy load promote
#   codes: pickle-unsafe pickle-unchecked facts-missing
#   breakable: false
package genealog.policies.safe_pickle

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	lib.whole
	every model in lib.models {
		harmless(model)
	}
}

# A vendor's model has no files that anybody here loads.
elsewhere(model) if model.role == "external"

harmless(model) if elsewhere(model)

harmless(model) if {
	model.pickle.scanned == true
	model.pickle.unsafe == 0
}

reasons contains {"code": "pickle-unchecked", "message": sprintf("nobody looked at the pickles of %s", [lib.name(model)])} if {
	some model in lib.models
	not elsewhere(model)
	not model.pickle.scanned == true
}

reasons contains {"code": "pickle-unsafe", "message": sprintf("whoever loads %s runs what is in its pickles", [lib.name(model)])} if {
	some model in lib.models
	not elsewhere(model)
	not model.pickle.unsafe == 0
}

reasons contains lost if some lost in lib.lost
