# METADATA
# title: Traceable
# description: An answer goes out only if its call is on record, and if it is known where the models come from that made it.
# custom:
#   points: release
#   codes: output-not-recorded output-without-lineage
#   breakable: true
package genealog.policies.traceable

import rego.v1

default applies := true

default allow := false

allow if {
	input.output.recorded == true
	input.output.lineage_complete == true
}

reasons contains {"code": "output-not-recorded", "message": "the call that made this answer is not on record"} if {
	not input.output.recorded == true
}

reasons contains {"code": "output-without-lineage", "message": "it is not known in whole where the models come from that made this answer"} if {
	not input.output.lineage_complete == true
}
