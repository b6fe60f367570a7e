# What several policies need. Facts come from the input; where an agent has Genealog's bundle, a model may be named by its
# ID alone, and its facts come from the bundle.
#
# Rego compares values of different types (null is less than any number, text is more), so nothing is compared here that
# has not the type that it should have.
package genealog.lib

import rego.v1

models := [fact(model) | some model in list(input.models)]

fact(model) := model if is_object(model)

fact(model) := data.genealog.registry.models[model] if is_string(model)

# As many models as the decision is about: `every` over a list that lost one would still hold. An ID that no bundle knows
# has no facts, and is missed here.
whole if {
	is_number(input.subject.models)
	input.subject.models > 0
	count(models) == input.subject.models
	count(list(input.models)) == input.subject.models
}

# What every policy about models says where it does not have them all.
lost contains {"code": "facts-missing", "message": "the input does not have all models that it is about"} if not whole

list(value) := value if is_array(value)

# A text with something in it.
text(value) if {
	is_string(value)
	value != ""
}

at_least(value, bound) if {
	is_number(value)
	is_number(bound)
	value >= bound
}

at_most(value, bound) if {
	is_number(value)
	is_number(bound)
	value <= bound
}

# The number that an exact decimal says; undefined for any other text.
decimal(value) := to_number(value) if {
	is_string(value)
	regex.match(`^-?[0-9]{1,12}(\.[0-9]{1,12})?$`, value)
}

# How a message names a model, also one that lost its name.
name(model) := model.name if {
	text(model.name)
} else := model.id if {
	text(model.id)
} else := "a model"
