// Command go_check reads formats/vectors with Go's own transparency-log packages, which share no code with ours:
//
//	go run . ../../formats/vectors
//
// It exits 1 and says which vector fails, or prints "all vectors verify".
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type logVectors struct {
	Vkey       string
	Checkpoint string
	Roots      []struct {
		Size int64
		Root string
	}
	Inclusion []struct {
		Index, Size int64
		Path        []string
	}
	Consistency []struct {
		Old, New int64
		Path     []string
	}
	Proof struct {
		Index int64
		Text  string
	}
	Paths []struct {
		Level, Width int
		N            int64
		Path         string
	}
}

type leafVectors struct {
	Leaves []struct {
		Name, Bytes string
		LeafHash    string `json:"leaf_hash"`
	}
}

type envelope struct {
	Payload     string
	PayloadType string
	Signatures  []struct{ Keyid, Sig string }
}

type signedVectors struct {
	RootPub   string `json:"root_pub"`
	Seeds     map[string]string
	Keys      envelope `json:"keys.json"`
	Rollout   envelope
	Event     string
	Signature string
}

func must(err error, what string) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func demand(ok bool, what string) {
	if !ok {
		fmt.Fprintf(os.Stderr, "%s: does not verify\n", what)
		os.Exit(1)
	}
}

func read(dir, name string, into any) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	must(err, name)
	must(json.Unmarshal(data, into), name)
}

func hashes(texts []string) []tlog.Hash {
	list := make([]tlog.Hash, len(texts))
	for i, text := range texts {
		data, err := hex.DecodeString(text)
		must(err, "hash")
		demand(copy(list[i][:], data) == tlog.HashSize, "hash size")
	}
	return list
}

// tree builds Go's own tree over the entries and gives its root at each size.
func tree(size int64) func(int64) tlog.Hash {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		list := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			list[i] = stored[index]
		}
		return list, nil
	})
	for i := int64(0); i < size; i++ {
		added, err := tlog.StoredHashes(i, fmt.Appendf(nil, "entry %d", i), reader)
		must(err, "stored hashes")
		stored = append(stored, added...)
	}
	return func(n int64) tlog.Hash {
		root, err := tlog.TreeHash(n, reader)
		must(err, "tree hash")
		return root
	}
}

func checkLog(v logVectors) {
	verifier, err := note.NewVerifier(v.Vkey)
	must(err, "vkey")
	opened, err := note.Open([]byte(v.Checkpoint), note.VerifierList(verifier))
	must(err, "checkpoint signature")
	lines := strings.Split(opened.Text, "\n")
	demand(lines[0] == verifier.Name(), "origin")
	var size int64
	_, err = fmt.Sscan(lines[1], &size)
	must(err, "checkpoint size")
	root := tree(size)
	top := root(size)
	demand(lines[2] == base64.StdEncoding.EncodeToString(top[:]), "checkpoint root")
	for _, c := range v.Roots {
		demand(root(c.Size) == hashes([]string{c.Root})[0], fmt.Sprintf("root of size %d", c.Size))
	}
	for _, c := range v.Inclusion {
		leaf := tlog.RecordHash(fmt.Appendf(nil, "entry %d", c.Index))
		must(tlog.CheckRecord(hashes(c.Path), c.Size, root(c.Size), c.Index, leaf), fmt.Sprintf("inclusion of %d in %d", c.Index, c.Size))
	}
	for _, c := range v.Consistency {
		must(tlog.CheckTree(hashes(c.Path), c.New, root(c.New), c.Old, root(c.Old)), fmt.Sprintf("consistency of %d and %d", c.Old, c.New))
	}
	head, checkpoint, _ := strings.Cut(v.Proof.Text, "\n\n")
	fields := strings.Split(head, "\n")
	demand(fields[0] == "c2sp.org/tlog-proof@v1" && fields[1] == fmt.Sprintf("index %d", v.Proof.Index) && checkpoint == v.Checkpoint, "proof text")
	var path []tlog.Hash
	for _, line := range fields[2:] {
		hash, err := tlog.ParseHash(line)
		must(err, "proof hash")
		path = append(path, hash)
	}
	must(tlog.CheckRecord(path, size, top, v.Proof.Index, tlog.RecordHash(fmt.Appendf(nil, "entry %d", v.Proof.Index))), "proof")
	for _, c := range v.Paths {
		// sumdb writes the tile height as the first part of a path; C2SP leaves it out.
		path := strings.Replace(tlog.Tile{H: 8, L: c.Level, N: c.N, W: c.Width}.Path(), "tile/8/", "tile/", 1)
		demand(path == c.Path, "tile path "+c.Path+" (Go: "+path+")")
	}
}

func checkLeaves(v leafVectors) {
	for _, c := range v.Leaves {
		data, err := hex.DecodeString(c.Bytes)
		must(err, c.Name)
		demand(tlog.RecordHash(data) == hashes([]string{c.LeafHash})[0], c.Name)
	}
}

func (e envelope) check(public ed25519.PublicKey, what string) []byte {
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	must(err, what)
	covered := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(payload), payload)
	demand(len(e.Signatures) == 1, what+" signatures")
	signature, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	must(err, what)
	id := sha256.Sum256(public)
	demand(e.Signatures[0].Keyid == hex.EncodeToString(id[:]), what+" keyid")
	demand(ed25519.Verify(public, covered, signature), what)
	var value any
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	must(decoder.Decode(&value), what)
	var again bytes.Buffer
	encoder := json.NewEncoder(&again)
	encoder.SetEscapeHTML(false)
	must(encoder.Encode(value), what)
	demand(bytes.Equal(bytes.TrimSuffix(again.Bytes(), []byte("\n")), payload), what+" canonical form")
	return payload
}

func checkSigned(v signedVectors) {
	public := func(role string) ed25519.PublicKey {
		seed, err := hex.DecodeString(v.Seeds[role])
		must(err, role)
		return ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	}
	demand(base64.StdEncoding.EncodeToString(public("root")) == v.RootPub, "root_pub")
	v.Keys.check(public("root"), "keys.json")
	v.Rollout.check(public("rollout"), "rollout")
	for role, text := range map[string]string{"rollout": v.Event, "build": v.Signature} {
		var bundle struct {
			MediaType    string
			DsseEnvelope envelope
		}
		must(json.Unmarshal([]byte(text), &bundle), role)
		demand(bundle.MediaType == "application/vnd.dev.sigstore.bundle.v0.3+json", role+" media type")
		bundle.DsseEnvelope.check(public(role), "bundle of role "+role)
	}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run . VECTORS_DIR")
		os.Exit(2)
	}
	var log logVectors
	var leaves leafVectors
	var signed signedVectors
	read(os.Args[1], "log.json", &log)
	read(os.Args[1], "leaf.json", &leaves)
	read(os.Args[1], "signed.json", &signed)
	checkLog(log)
	checkLeaves(leaves)
	checkSigned(signed)
	fmt.Println("all vectors verify")
}
