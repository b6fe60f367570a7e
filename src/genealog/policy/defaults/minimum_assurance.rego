# METADATA
# title: Minimum assurance
# description: The deployment demands what its environment does, and what serves it is bound at no less.
# custom:
#   points: deploy serve release promote
#   codes: assurance-too-low
#   breakable: true
package genealog.policies.minimum_assurance

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	input.point in {"deploy", "promote"}
	demanded
}

allow if {
	input.point == "serve"
	demanded
	bound
}

allow if {
	input.point == "release"
	demanded
	answered
}

demanded if lib.at_least(input.serving.minimum_assurance, input.env.minimum_assurance)

bound if lib.at_least(input.serving.assurance, input.serving.minimum_assurance)

answered if lib.at_least(input.output.assurance, input.serving.minimum_assurance)

reasons contains {"code": "assurance-too-low", "message": "the deployment demands less than its environment"} if not demanded

reasons contains {"code": "assurance-too-low", "message": "what serves is bound at less than the deployment demands"} if {
	input.point == "serve"
	not bound
}

reasons contains {"code": "assurance-too-low", "message": "the answer was made at less than the deployment demands"} if {
	input.point == "release"
	not answered
}
