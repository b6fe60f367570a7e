package genealog.policies.four_eyes_test

import rego.v1

import data.genealog.policies.four_eyes

allowed(document) if {
	four_eyes.applies == true with input as document with data.genealog.settings as settings
	four_eyes.allow == true with input as document with data.genealog.settings as settings
	four_eyes.reasons == set() with input as document with data.genealog.settings as settings
}

denied(document) := codes if {
	four_eyes.applies == true with input as document with data.genealog.settings as settings
	four_eyes.allow == false with input as document with data.genealog.settings as settings
	codes := {reason.code | some reason in four_eyes.reasons} with input as document with data.genealog.settings as settings
}

settings := {"approvals": 2}

by(names, independent) := {"approvals": [{"by": name, "independent": independent} | some name in names]}

test_allows if allowed(by(["carol", "dan"], true))

test_one_too_few if denied(by(["carol"], true)) == {"approvals-missing"}

test_the_same_twice if denied(by(["carol", "carol"], true)) == {"approvals-missing"}

test_not_independent if denied(by(["carol", "dan"], false)) == {"approvals-missing"}

test_nameless if denied(by(["carol", ""], true)) == {"approvals-missing"}

test_nobody if denied({}) == {"approvals-missing"}

test_settings_that_want_none if not four_eyes.allow with input as by(["carol"], true) with data.genealog.settings as {"approvals": 0}
