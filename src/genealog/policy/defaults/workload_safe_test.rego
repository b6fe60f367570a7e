package genealog.policies.workload_safe_test

import rego.v1

import data.genealog.policies.workload_safe

allowed(document) if {
	workload_safe.applies == true with input as document
	workload_safe.allow == true with input as document
	workload_safe.reasons == set() with input as document
}

denied(document) := codes if {
	workload_safe.applies == true with input as document
	workload_safe.allow == false with input as document
	codes := {reason.code | some reason in workload_safe.reasons} with input as document
}

about(changes) := {
	"subject": {"workload": true},
	"workload": object.union({"unresolved": 0, "unpinned": 0, "remote_code": 0, "open_loading": 0}, changes),
}

test_allows if allowed(about({}))

test_unresolved if denied(about({"unresolved": 1})) == {"unresolved-model"}

test_unpinned if denied(about({"unpinned": 1})) == {"image-not-pinned"}

test_remote_code if denied(about({"remote_code": 1})) == {"remote-code"}

test_open_loading if denied(about({"open_loading": 1})) == {"open-loading"}

test_applies_to_a_workload if workload_safe.applies with input as about({})

test_does_not_apply_to_others if not workload_safe.applies with input as {"subject": {"workload": false}}

test_applies_where_nobody_says if workload_safe.applies with input as {"subject": {}}
