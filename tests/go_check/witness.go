package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// witnessVectors is witness.json: notes, and who of the witnesses signed each (null: it must be refused).
type witnessVectors struct {
	Log       string
	Witnesses []struct{ Vkey string }
	Notes     []struct {
		Name, Note string
		Signed     []string
	}
	Mirrors []struct {
		Name, Note string
		Mirrored   *bool
	}
}

// cosigner is a note.Verifier of Ed25519 cosignatures (c2sp.org/tlog-cosignature), which Go's note package does not bring.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }

func (c cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize || sig[0] > 127 {
		return false
	}
	covered := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(c.key, covered, sig[8:])
}

func newCosigner(vkey string) (cosigner, error) {
	parts := strings.SplitN(vkey, "+", 3)
	data, err := base64.StdEncoding.Strict().DecodeString(parts[len(parts)-1])
	if err != nil || len(parts) != 3 || len(data) != 1+ed25519.PublicKeySize || data[0] != 4 {
		return cosigner{}, errors.Join(err, errors.New("must be the vkey of a witness"))
	}
	id := sha256.Sum256(append([]byte(parts[0]+"\n"), data...))
	if fmt.Sprintf("%x", id[:4]) != parts[1] {
		return cosigner{}, errors.New("must have the id of the key")
	}
	return cosigner{parts[0], binary.BigEndian.Uint32(id[:]), data[1:]}, nil
}

// mirror is a note.Verifier of what a witness says that it holds (formats/witness.md), by the same key.
type mirror struct{ cosigner }

const mirrored = "knhk.dev/mirrored/v1"

func (m mirror) KeyHash() uint32 {
	id := sha256.Sum256(append([]byte(m.name+"\n\xff"+mirrored), m.key...))
	return binary.BigEndian.Uint32(id[:])
}

func (m mirror) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	covered := fmt.Appendf(nil, "%s\ntime %d\n%s", mirrored, binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(m.key, covered, sig[8:])
}

func checkWitness(v witnessVectors) {
	log, err := note.NewVerifier(v.Log)
	must(err, "witness: log")
	verifiers := []note.Verifier{log}
	for _, w := range v.Witnesses {
		made, err := newCosigner(w.Vkey)
		must(err, "witness: vkey "+w.Vkey)
		verifiers = append(verifiers, made)
	}
	for _, row := range v.Notes {
		opened, err := note.Open([]byte(row.Note), note.VerifierList(verifiers...))
		if row.Signed == nil {
			demand(err != nil, "witness, "+row.Name+": was accepted")
			continue
		}
		must(err, "witness, "+row.Name)
		var signed []string
		for _, sig := range opened.Sigs {
			if sig.Name != log.Name() && !slices.Contains(signed, sig.Name) {
				signed = append(signed, sig.Name)
			}
		}
		demand(slices.Equal(signed, row.Signed), fmt.Sprintf("witness, %s: signed by %v", row.Name, signed))
	}
	demand(len(v.Notes) > 5, "witness: too few notes")
	first, err := newCosigner(v.Witnesses[0].Vkey)
	must(err, "witness: vkey")
	for _, row := range v.Mirrors {
		opened, err := note.Open([]byte(row.Note), note.VerifierList(log, mirror{first}))
		if row.Mirrored == nil {
			demand(err != nil, "mirror, "+row.Name+": was accepted")
			continue
		}
		must(err, "mirror, "+row.Name)
		demand((len(opened.Sigs) == 2) == *row.Mirrored, "mirror, "+row.Name+": is told otherwise")
	}
	demand(len(v.Mirrors) > 5, "mirror: too few notes")
}
