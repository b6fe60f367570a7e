"""OpenSSF Model Signing (OMS) v1.0, both ways: bundles of `model-signing`, NVIDIA, Kaggle and others; ours for them."""
