package genealog.policies.licence_allowed_test

import rego.v1

import data.genealog.policies.licence_allowed

allowed(document) if {
	licence_allowed.applies == true with input as document with data.genealog.settings as settings
	licence_allowed.allow == true with input as document with data.genealog.settings as settings
	licence_allowed.reasons == set() with input as document with data.genealog.settings as settings
}

denied(document) := codes if {
	licence_allowed.applies == true with input as document with data.genealog.settings as settings
	licence_allowed.allow == false with input as document with data.genealog.settings as settings
	codes := {reason.code | some reason in licence_allowed.reasons} with input as document with data.genealog.settings as settings
}

settings := {"licences": ["mit", "apache-2.0"]}

about(changes) := {"subject": {"models": 1}, "models": [object.union(good, changes)]}

good := {"name": "acme/a", "licence": "mit"}

test_allows if allowed(about({}))

test_allows_capital_letters if allowed(about({"licence": "Apache-2.0"}))

test_not_on_the_list if denied(about({"licence": "llama3.1"})) == {"licence-not-allowed"}

test_unknown if denied(about({"licence": ""})) == {"licence-unknown"}

test_no_text if denied(about({"licence": null})) == {"licence-unknown"}

test_lost_model if denied({"subject": {"models": 2}, "models": [good]}) == {"facts-missing"}

test_no_model if denied({"subject": {"models": 0}, "models": []}) == {"facts-missing"}
