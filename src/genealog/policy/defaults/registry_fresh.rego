# METADATA
# title: Registry fresh
# description: The facts are as new as the settings ask for, so that what was revoked since cannot be missed.
# custom:
#   points: deploy load serve promote
#   codes: registry-stale
#   breakable: false
package genealog.policies.registry_fresh

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	input.registry.stale == false
	lib.at_least(input.registry.age_seconds, 0)
	lib.at_most(input.registry.age_seconds, data.genealog.settings.registry_age_seconds)
}

reasons contains {"code": "registry-stale", "message": "the registry was not looked at lately, and what was revoked since is not known"} if not allow
