package genealog.policies.vendor_allowed_test

import rego.v1

import data.genealog.policies.vendor_allowed

allowed(document) if {
	vendor_allowed.applies == true with input as document with data.genealog.settings as settings
	vendor_allowed.allow == true with input as document with data.genealog.settings as settings
	vendor_allowed.reasons == set() with input as document with data.genealog.settings as settings
}

denied(document) := codes if {
	vendor_allowed.applies == true with input as document with data.genealog.settings as settings
	vendor_allowed.allow == false with input as document with data.genealog.settings as settings
	codes := {reason.code | some reason in vendor_allowed.reasons} with input as document with data.genealog.settings as settings
}

settings := {"vendors": ["openai", ""]}

about(changes) := {"subject": {"models": 1}, "models": [object.union(good, changes)]}

good := {"name": "gpt", "role": "external", "vendor": "openai"}

test_allows if allowed(about({}))

test_allows_weights_of_our_own if allowed(about({"role": "model", "vendor": ""}))

test_files_of_a_vendor if denied(about({"role": "model", "vendor": "elsewhere"})) == {"vendor-not-allowed"}

test_another_vendor if denied(about({"vendor": "elsewhere"})) == {"vendor-not-allowed"}

test_no_vendor if denied(about({"vendor": ""})) == {"vendor-not-allowed"}

test_lost_model if denied({"subject": {"models": 2}, "models": [good]}) == {"facts-missing"}

test_no_model if denied({"subject": {"models": 0}, "models": []}) == {"facts-missing"}
