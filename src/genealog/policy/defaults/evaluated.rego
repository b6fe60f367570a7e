# METADATA
# title: Evaluated
# description: Each model has a recent evaluation of every suite that the settings name, and it measured what it has to.
# custom:
#   points: deploy promote
#   codes: evaluation-missing evaluation-stale evaluation-failed evaluation-below-bound facts-missing
#   breakable: true
package genealog.policies.evaluated

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

suites := data.genealog.settings.evaluations

# A base is evaluated together with the adapter that runs on it.
judged := [model | some model in lib.models; not model.role == "base"]

allow if {
	lib.whole
	count(suites) > 0
	count(judged) > 0
	every model in judged {
		every suite, wanted in suites {
			model.evaluations[suite].succeeded == true
			fresh(model, suite, wanted)
			every name, bound in wanted.minimum {
				lib.at_least(measured(model, suite, name), lib.decimal(bound))
			}
			every name, bound in wanted.maximum {
				lib.at_most(measured(model, suite, name), lib.decimal(bound))
			}
		}
	}
}

there(model, suite) if is_object(model.evaluations[suite])

fresh(model, suite, wanted) if {
	lib.at_least(model.evaluations[suite].age_seconds, 0)
	lib.at_most(model.evaluations[suite].age_seconds, wanted.newest_seconds)
}

measured(model, suite, name) := lib.decimal(model.evaluations[suite].measurements[name])

reasons contains {"code": "evaluation-missing", "message": "the settings name no evaluation: [policy.evaluations.SUITE]"} if {
	not count(suites) > 0
}

reasons contains {"code": "evaluation-missing", "message": "there is no model here that an evaluation is of"} if {
	lib.whole
	count(judged) == 0
}

reasons contains {"code": "evaluation-missing", "message": sprintf("%s has no evaluation %s", [lib.name(model), suite])} if {
	some model in judged
	some suite, _ in suites
	not there(model, suite)
}

reasons contains {"code": "evaluation-failed", "message": sprintf("the evaluation %s of %s did not succeed", [suite, lib.name(model)])} if {
	some model in judged
	some suite, _ in suites
	there(model, suite)
	not model.evaluations[suite].succeeded == true
}

reasons contains {"code": "evaluation-stale", "message": sprintf("the evaluation %s of %s is too old", [suite, lib.name(model)])} if {
	some model in judged
	some suite, wanted in suites
	there(model, suite)
	not fresh(model, suite, wanted)
}

reasons contains {"code": "evaluation-missing", "message": sprintf("the evaluation %s of %s does not measure %s", [suite, lib.name(model), name])} if {
	some model in judged
	some suite, wanted in suites
	there(model, suite)
	some name in object.keys(wanted.minimum) | object.keys(wanted.maximum)
	not measures(model, suite, name)
}

measures(model, suite, name) if is_number(measured(model, suite, name))

reasons contains {"code": "evaluation-below-bound", "message": sprintf("%s: %s of %s is less than %s", [lib.name(model), name, suite, bound])} if {
	some model in judged
	some suite, wanted in suites
	some name, bound in wanted.minimum
	measured(model, suite, name) < lib.decimal(bound)
}

reasons contains {"code": "evaluation-below-bound", "message": sprintf("%s: %s of %s is more than %s", [lib.name(model), name, suite, bound])} if {
	some model in judged
	some suite, wanted in suites
	some name, bound in wanted.maximum
	measured(model, suite, name) > lib.decimal(bound)
}

reasons contains lost if some lost in lib.lost
