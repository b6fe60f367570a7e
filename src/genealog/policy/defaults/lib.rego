# What several policies need. Facts come from the input; where an agent has Genealog's bundle, a model may be named by its
# ID alone, and its facts come from the bundle.
package genealog.lib

import rego.v1

models := [fact(model) | some model in input.models]

fact(model) := model if is_object(model)

fact(model) := data.genealog.registry.models[model] if is_string(model)

# As many models as the decision is about: `every` over a list that lost one would still hold.
whole if {
	input.subject.models > 0
	count(models) == input.subject.models
}

# How a message names a model, also one that lost its name.
name(model) := object.get(model, "name", object.get(model, "id", "a model"))
