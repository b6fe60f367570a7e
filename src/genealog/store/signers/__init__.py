"""Where private keys come from: a file, an environment variable, a token (PKCS #11); and what opens them."""
