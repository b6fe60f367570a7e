# METADATA
# title: Lineage complete
# description: Of models whose tier is high or systemic, or not assessed, it is known where they come from, down to their data.
# custom:
#   points: deploy promote
#   codes: lineage-incomplete lineage-contradicted no-data-lineage facts-missing
#   breakable: true
package genealog.policies.lineage_complete

import rego.v1

import data.genealog.lib

default applies := true

applies := false if {
	lib.whole
	every model in lib.models {
		exempt(model)
	}
}

default allow := false

allow if {
	lib.whole
	every model in lib.models {
		traced(model)
	}
}

exempt(model) if model.tier in {"minimal", "limited"}

traced(model) if exempt(model)

traced(model) if {
	model.lineage.complete == true
	model.lineage.to_data == true
	model.lineage.contradicted == 0
}

reasons contains {"code": "lineage-incomplete", "message": sprintf("it is not known in whole where %s comes from", [lib.name(model)])} if {
	some model in lib.models
	not exempt(model)
	not model.lineage.complete == true
}

reasons contains {"code": "no-data-lineage", "message": sprintf("a run on the way to %s does not name its data", [lib.name(model)])} if {
	some model in lib.models
	not exempt(model)
	not model.lineage.to_data == true
}

reasons contains {"code": "lineage-contradicted", "message": sprintf("bytes refute what is said of the origin of %s", [lib.name(model)])} if {
	some model in lib.models
	not exempt(model)
	not model.lineage.contradicted == 0
}

reasons contains lost if some lost in lib.lost
