# METADATA
# title: Workload safe
# description: A Kubernetes workload runs registered models alone, from images named by digest, with no way to load others.
# custom:
#   points: deploy
#   codes: unresolved-model image-not-pinned remote-code open-loading
#   breakable: true
package genealog.policies.workload_safe

import rego.v1

default applies := true

applies := false if input.subject.workload == false

default allow := false

allow if {
	input.workload.unresolved == 0
	input.workload.unpinned == 0
	input.workload.remote_code == 0
	input.workload.open_loading == 0
}

reasons contains {"code": "unresolved-model", "message": "a source of models is no registered model"} if {
	not input.workload.unresolved == 0
}

reasons contains {"code": "image-not-pinned", "message": "an image that serves is not named by its digest"} if {
	not input.workload.unpinned == 0
}

reasons contains {"code": "remote-code", "message": "a container would run code of a model's repository"} if {
	not input.workload.remote_code == 0
}

reasons contains {"code": "open-loading", "message": "a container takes models or adapters at run time, past every gate"} if {
	not input.workload.open_loading == 0
}
