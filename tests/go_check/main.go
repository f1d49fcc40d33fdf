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
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

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
	AppendBody string `json:"append_body"`
	WalSegment string `json:"wal_segment"`
}

type leafVectors struct {
	Leaves []struct {
		Name, Bytes, Key string
		LeafHash         string `json:"leaf_hash"`
		Fields           struct {
			Kind, Klass, Verdict, Mode, Flags uint8
			Region                            uint16
			HO                                string `json:"h_o"`
			HA                                string `json:"h_a"`
			Pack                              string
			TimeNs                            uint64 `json:"time_ns,string"`
			ReceiptID                         string `json:"receipt_id"`
		}
	}
	Refused []struct{ Why, Bytes string }
}

type envelope struct {
	Payload     string
	PayloadType string
	Signatures  []struct{ Keyid, Sig string }
	Chapters    []string
}

type former struct {
	Chapter                int
	Role, Name, Until, Pub string
}

type signedVectors struct {
	RootPub  string `json:"root_pub"`
	Seeds    map[string]string
	Keys     envelope `json:"keys.json"`
	Chapters struct {
		Keys    envelope `json:"keys.json"`
		Former  []former
		Refused []envelope
	}
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
	size, top, err := openCheckpoint(v.Checkpoint, verifier)
	must(err, "checkpoint signature")
	root := tree(size)
	demand(root(size) == top, "checkpoint root")
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
	demand(strings.HasSuffix(v.Proof.Text, "\n\n"+v.Checkpoint), "checkpoint of the proof")
	for _, c := range v.Paths {
		// sumdb writes the tile height as the first part of a path; C2SP leaves it out.
		path := strings.Replace(tlog.Tile{H: 8, L: c.Level, N: c.N, W: c.Width}.Path(), "tile/8/", "tile/", 1)
		demand(path == c.Path, "tile path "+c.Path+" (Go: "+path+")")
	}
}

func checkLeaves(v leafVectors) {
	for _, c := range v.Leaves {
		data := fromHex(c.Bytes)
		demand(tlog.RecordHash(data) == hashes([]string{c.LeafHash})[0], c.Name)
		l, err := parseLeaf(data)
		must(err, c.Name)
		f := c.Fields
		want := leaf{f.Kind, f.Klass, f.Verdict, f.Mode, f.Flags, f.Region, fromHex(f.HO), fromHex(f.HA), fromHex(f.Pack), fromHex(f.ReceiptID), f.TimeNs}
		demand(reflect.DeepEqual(l, want), "fields of "+c.Name)
		demand(bytes.Equal(l.key(), fromHex(c.Key)), "key of "+c.Name)
	}
	var refused []row
	for _, c := range v.Refused {
		refused = append(refused, row{Name: c.Why, Must: "another value there", Bytes: c.Bytes})
	}
	refuse("leaf", refused, func(r row) error {
		_, err := parseLeaf(r.data())
		return err
	})
}

func keyid(public ed25519.PublicKey) string {
	id := sha256.Sum256(public)
	return hex.EncodeToString(id[:])
}

func (e envelope) check(public ed25519.PublicKey, keyid, what string) []byte {
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	must(err, what)
	covered := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(payload), payload)
	demand(len(e.Signatures) == 1, what+" signatures")
	signature, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	must(err, what)
	demand(e.Signatures[0].Keyid == keyid, what+" keyid")
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

// chaptersOf gives the former keys of the chapters of a keys.json that the root signed.
func chaptersOf(e envelope, root ed25519.PublicKey) ([]former, error) {
	var named struct{ Chapters []string }
	must(json.Unmarshal(e.check(root, keyid(root), "keys.json with chapters"), &named), "keys.json with chapters")
	var found []former
	for _, text := range e.Chapters {
		sum := sha256.Sum256([]byte(text))
		number := slices.Index(named.Chapters, hex.EncodeToString(sum[:]))
		if number < 0 {
			return nil, fmt.Errorf("a chapter that keys.json does not name")
		}
		var chapter struct {
			Keys []struct{ Role, Name, Rows string }
		}
		must(json.Unmarshal([]byte(text), &chapter), "chapter")
		for _, part := range chapter.Keys {
			rows, err := base64.StdEncoding.DecodeString(part.Rows)
			must(err, "rows of a chapter")
			demand(len(rows)%36 == 0, "rows of a chapter")
			for ; len(rows) > 0; rows = rows[36:] {
				until := time.Unix(int64(binary.BigEndian.Uint32(rows)), 0).UTC().Format(time.RFC3339)
				pub := base64.StdEncoding.EncodeToString(rows[4:36])
				found = append(found, former{number, part.Role, part.Name, until, pub})
			}
		}
	}
	return found, nil
}

func checkSigned(v signedVectors) {
	public := func(role string) ed25519.PublicKey {
		seed, err := hex.DecodeString(v.Seeds[role])
		must(err, role)
		return ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	}
	demand(base64.StdEncoding.EncodeToString(public("root")) == v.RootPub, "root_pub")
	v.Keys.check(public("root"), keyid(public("root")), "keys.json")
	found, err := chaptersOf(v.Chapters.Keys, public("root"))
	must(err, "chapters")
	demand(len(found) > 0 && reflect.DeepEqual(found, v.Chapters.Former), "keys of chapters")
	demand(len(v.Chapters.Refused) > 0, "chapters to refuse")
	for _, each := range v.Chapters.Refused {
		_, err := chaptersOf(each, public("root"))
		demand(err != nil, "a chapter that is to be refused")
	}
	v.Rollout.check(public("rollout"), keyid(public("rollout")), "rollout")
	for role, text := range map[string]string{"rollout": v.Event, "build": v.Signature} {
		var bundle struct {
			MediaType            string
			VerificationMaterial struct{ PublicKey struct{ Hint string } }
			DsseEnvelope         envelope
		}
		must(json.Unmarshal([]byte(text), &bundle), role)
		demand(bundle.MediaType == "application/vnd.dev.sigstore.bundle.v0.3+json", role+" media type")
		demand(bundle.VerificationMaterial.PublicKey.Hint == keyid(public(role)), role+" hint")
		bundle.DsseEnvelope.check(public(role), "", "bundle of role "+role)
	}
}

type waveVectors struct {
	Positions []struct {
		Salt, Instance string
		Position       uint32
	}
}

func checkWaves(v waveVectors) {
	demand(len(v.Positions) > 0, "waves")
	for _, row := range v.Positions {
		salt, err := hex.DecodeString(row.Salt)
		must(err, "salt of a wave")
		sum := sha256.Sum256(append(append([]byte("knhk-wave-v1\x00"), salt...), row.Instance...))
		demand(binary.BigEndian.Uint32(sum[:4]) == row.Position, "position of instance "+row.Instance)
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
	var waves waveVectors
	read(os.Args[1], "waves.json", &waves)
	var records recordVectors
	var edges edgeVectors
	read(os.Args[1], "observation.json", &records.Observation)
	read(os.Args[1], "action.json", &records.Action)
	read(os.Args[1], "frame.json", &records.Frame)
	read(os.Args[1], "edges.json", &edges)
	checkLog(log)
	checkRefusals(log, edges)
	checkWal(log)
	checkLeaves(leaves)
	checkObservations(records, edges)
	checkActions(records, edges)
	checkFrames(records, edges)
	checkSigned(signed)
	checkWaves(waves)
	var receipts evidenceVectors
	read(os.Args[1], "receipt.json", &receipts)
	var witnesses witnessVectors
	read(os.Args[1], "witness.json", &witnesses)
	verifier, err := note.NewVerifier(log.Vkey)
	must(err, "vkey")
	checkEvidence(receipts, verifier, ed25519.NewKeyFromSeed(fromHex(signed.Seeds["rollout"])).Public().(ed25519.PublicKey))
	checkWitness(witnesses)
	fmt.Println("all vectors verify")
}
