"""A stand-in for the company's identity provider: signs JWTs (RS256) that Envoy verifies against its JWKS."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

ISSUER = "https://idp.example.com"
AUDIENCE = "order-to-cash"
KEY_ID = "demo-1"


@dataclass(frozen=True)
class IdentityProvider:
    """Holds one RSA key, in memory only."""

    key: rsa.RSAPrivateKey

    @classmethod
    def new(cls) -> IdentityProvider:
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=2048))

    def jwks(self) -> str:
        """The public key as a JSON Web Key Set (RFC 7517)."""
        document = json.loads(RSAAlgorithm.to_jwk(self.key.public_key()))
        document |= {"kid": KEY_ID, "alg": "RS256", "use": "sig"}
        return json.dumps({"keys": [document]})

    def token(self, subject: str, lifetime_s: int = 3600, audience: str = AUDIENCE, issuer: str = ISSUER) -> str:
        """A token for `subject`; a negative lifetime makes an expired one."""
        now = int(time.time())
        claims = {"sub": subject, "iss": issuer, "aud": audience, "iat": now - 1, "exp": now + lifetime_s}
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": KEY_ID})
