package genealog.policies.clean_test

import rego.v1

import data.genealog.policies.clean

allowed(document) if {
	clean.applies == true with input as document with data.genealog.settings as settings
	clean.allow == true with input as document with data.genealog.settings as settings
	clean.reasons == set() with input as document with data.genealog.settings as settings
}

denied(document) := codes if {
	clean.applies == true with input as document with data.genealog.settings as settings
	clean.allow == false with input as document with data.genealog.settings as settings
	codes := {reason.code | some reason in clean.reasons} with input as document with data.genealog.settings as settings
}

settings := {"detectors": {"shop": ["personal-data", "toxicity"], "bare": []}}

of(name, detectors, alarms) := {"env": {"name": name}, "output": {"detectors": detectors, "alarms": alarms}}

test_allows if allowed(of("shop", ["personal-data", "toxicity"], 0))

test_allows_more if allowed(of("shop", ["other", "personal-data", "toxicity"], 0))

test_an_alarm if denied(of("shop", ["toxicity"], 1)) == {"output-alarm"}

test_an_alarm_of_another if denied(of("shop", ["personal-data", "toxicity"], 1)) == {"output-alarm"}

test_one_that_did_not_look if denied(of("shop", ["toxicity"], 0)) == {"output-not-looked-at"}

test_nobody_looked if denied(of("shop", [], 0)) == {"output-not-looked-at"}

test_an_environment_without_detectors if denied(of("bare", ["personal-data"], 0)) == {"output-not-looked-at"}

test_an_environment_that_is_unknown if denied(of("other", ["personal-data"], 0)) == {"output-not-looked-at"}

test_nothing if denied({}) == {"output-alarm"}

test_alarms_that_are_no_number if denied(of("shop", ["personal-data", "toxicity"], null)) == {"output-alarm"}
