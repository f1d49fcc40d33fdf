package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// evidenceVectors is receipt.json. Parts log and signed are what Go judges: with its note and tlog packages, and Ed25519.
type evidenceVectors struct {
	Cases []struct {
		Name, Verdict, Part string
		Files               map[string]string
	}
}

// head is a checkpoint that the log signed.
type head struct {
	size int64
	root tlog.Hash
}

// evidence is what the files of one case say together.
type evidence struct {
	verifier note.Verifier
	rollout  ed25519.PublicKey
	heads    map[int64]tlog.Hash
	entries  map[int64]string
	grown    map[int64]bool
}

func (e evidence) open(text string) (head, error) {
	size, root, err := openCheckpoint(text, e.verifier)
	if err != nil {
		return head{}, err
	}
	if lines := strings.Split(text, "\n"); lines[1] != strconv.FormatInt(size, 10) || lines[2] != root.String() || lines[3] != "" {
		return head{}, errors.New("must have size and root as they are written")
	}
	if other, known := e.heads[size]; known && other != root {
		return head{}, errors.New("must have one root for a size")
	}
	e.heads[size] = root
	return head{size, root}, nil
}

// path reads `word N`, hashes, a blank line, a checkpoint.
func (e evidence) path(text, word string) (int64, []tlog.Hash, head, error) {
	top, checkpoint, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(top, "\n")
	first, err := strconv.ParseInt(strings.TrimPrefix(lines[0], word+" "), 10, 64)
	var hashes []tlog.Hash
	for _, line := range lines[1:] {
		hash, bad := tlog.ParseHash(line)
		if bad == nil && hash.String() != line {
			bad = errors.New("must have hashes in canonical base64")
		}
		hashes, err = append(hashes, hash), errors.Join(err, bad)
	}
	opened, bad := e.open(checkpoint)
	return first, hashes, opened, errors.Join(err, bad)
}

func (e evidence) receipt(text string) error {
	var whole struct {
		Spec json.RawMessage
	}
	if json.Unmarshal([]byte(text), &whole) == nil && whole.Spec != nil {
		text = string(whole.Spec)
	}
	var r struct{ Bundle, Leaf, Proof string }
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	entry, err := []byte(r.Bundle), error(nil)
	if r.Leaf != "" {
		if entry, err = base64.StdEncoding.Strict().DecodeString(r.Leaf); err == nil {
			_, err = parseLeaf(entry)
		}
	} else {
		err = e.event(entry)
	}
	proof, versioned := strings.CutPrefix(r.Proof, "c2sp.org/tlog-proof@v1\n")
	if strings.HasPrefix(proof, "extra ") {
		_, proof, _ = strings.Cut(proof, "\n")
	}
	index, hashes, opened, bad := e.path(proof, "index")
	if err = errors.Join(err, bad); err != nil || !versioned {
		return errors.Join(err, errors.New("must have a tlog-proof"))
	}
	if other, known := e.entries[index]; known && other != string(entry) {
		return errors.New("must have one entry at an index")
	}
	e.entries[index] = string(entry)
	if index >= opened.size { // tlog panics
		return errors.New("must have an index below the size")
	}
	return tlog.CheckRecord(hashes, opened.size, opened.root, index, tlog.RecordHash(entry))
}

// event holds the bundle of a policy event against the rollout key.
func (e evidence) event(data []byte) error {
	var b struct {
		MediaType            string
		VerificationMaterial struct{ PublicKey struct{ Hint string } }
		DsseEnvelope         envelope
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return err
	}
	id := fmt.Sprintf("%x", sha256.Sum256(e.rollout))
	d := b.DsseEnvelope
	whole := b.MediaType == "application/vnd.dev.sigstore.bundle.v0.3+json" && d.PayloadType == "application/vnd.in-toto+json" &&
		b.VerificationMaterial.PublicKey.Hint == id && len(d.Signatures) == 1 && (d.Signatures[0].Keyid == "" || d.Signatures[0].Keyid == id)
	if !whole {
		return errors.New("must have one signature by the rollout key")
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(d.Payload)
	signature, bad := base64.StdEncoding.Strict().DecodeString(d.Signatures[0].Sig)
	if err = errors.Join(err, bad); err != nil {
		return err
	}
	covered := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(d.PayloadType), d.PayloadType, len(payload), payload)
	if !ed25519.Verify(e.rollout, covered, signature) {
		return errors.New("must have a good signature")
	}
	var statement struct {
		Type          string `json:"_type"`
		PredicateType string
		Predicate     struct{ Time string }
	}
	if !isCanonical(data) || !isCanonical(payload) || json.Unmarshal(payload, &statement) != nil {
		return errors.New("must be canonical JSON, the bundle and what it signs")
	}
	if statement.Type != "https://in-toto.io/Statement/v1" || statement.PredicateType != "https://knhk.dev/policy-event/v1" {
		return errors.New("must be the statement of a policy event")
	}
	at, err := time.Parse("2006-01-02T15:04:05Z", statement.Predicate.Time)
	if err != nil || at.Format("2006-01-02T15:04:05Z") != statement.Predicate.Time {
		return errors.New("must have a time")
	}
	return nil
}

// isCanonical says whether JSON is as it must be written: an object, keys sorted, no white space.
func isCanonical(data []byte) bool {
	var object map[string]any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if decoder.Decode(&object) != nil {
		return false
	}
	var again bytes.Buffer
	encoder := json.NewEncoder(&again)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(object) == nil && bytes.Equal(bytes.TrimSuffix(again.Bytes(), []byte("\n")), data)
}

// judge gives an error when anything of a case does not verify.
func (e evidence) judge(files map[string]string) error {
	var later []string
	for name, text := range files {
		var err error
		switch {
		case strings.HasPrefix(text, "{"):
			err = e.receipt(text)
		case strings.HasPrefix(text, "old "):
			_, _, _, err = e.path(text, "old")
			later = append(later, text)
		default:
			_, err = e.open(text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, text := range later {
		old, hashes, opened, err := e.path(text, "old")
		root, known := e.heads[old]
		if err != nil || !known {
			return errors.Join(err, errors.New("must have the older checkpoint"))
		}
		if err := tlog.CheckTree(hashes, opened.size, opened.root, old, root); err != nil {
			return err
		}
		e.grown[old] = e.grown[old] || old < opened.size
	}
	var sizes []int64
	for size := range e.heads {
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	for i, size := range sizes {
		if i+1 < len(sizes) && !e.grown[size] {
			return fmt.Errorf("size %d: must have a consistency proof", size)
		}
	}
	return nil
}

func checkEvidence(v evidenceVectors, verifier note.Verifier, rollout ed25519.PublicKey) {
	judged := 0
	for _, c := range v.Cases {
		if c.Verdict == "refused" && c.Part != "log" && c.Part != "signed" {
			continue
		}
		judged++
		e := evidence{verifier, rollout, map[int64]tlog.Hash{}, map[int64]string{}, map[int64]bool{}}
		err := e.judge(c.Files)
		demand((err == nil) == (c.Verdict == "accepted"), fmt.Sprintf("evidence, %s, %s by Go (%v)", c.Name, c.Verdict, err))
	}
	demand(judged > 40, "evidence: too few cases")
}
