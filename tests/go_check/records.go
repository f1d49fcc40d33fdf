package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type row struct {
	Name, Must, Text, Bytes string
	Zeros                   int
	Number                  uint64
}

func (r row) data() []byte { return append(fromHex(r.Bytes), make([]byte, r.Zeros)...) }

type actionRow struct {
	Verdict uint8
	Guards  int
	Failing []int
	Triples []string
	Bytes   string
	HA      string `json:"h_a"`
}

type armRow struct {
	A, Pack                           string
	Kind, Klass, Verdict, Mode, Flags uint8
}

type recordVectors struct {
	Observation struct {
		Salt string
		Good []struct {
			Name, Bytes string
			HO          string `json:"h_o"`
			OKey        string `json:"o_key"`
		}
		Bad []row
	}
	Action struct {
		Salt    string
		Actions []actionRow
	}
	Frame struct {
		Outbox []struct {
			Name, Salt, Frame string
			Record            struct {
				Receipt, Cluster, O string
				Region              uint16
				Arms                []armRow
			}
		}
	}
}

type edgeVectors struct {
	Observation struct {
		Accepted []struct {
			row
			OKey   string `json:"o_key"`
			Fields struct {
				TimeNs        string `json:"time_ns"`
				Region, Route string
				Attributes    [][2]string
				BodySha256    string `json:"body_sha256"`
			}
		}
		Refused []row
	}
	Action struct {
		Accepted []actionRow
		Refused  []row
	}
	Frame struct {
		Accepted []struct {
			row
			Payloads []string
			End      int
		}
		Refused        []row
		RecordsRefused []row `json:"records_refused"`
	}
	Log struct {
		CheckpointsRefused []row `json:"checkpoints_refused"`
		ProofsRefused      []row `json:"proofs_refused"`
	}
}

func fromHex(text string) []byte {
	data, err := hex.DecodeString(text)
	must(err, "hexadecimal")
	return data
}

// refuse demands that every row gives an error.
func refuse(what string, rows []row, parse func(row) error) {
	demand(len(rows) > 0, what+": no rows")
	for _, r := range rows {
		if parse(r) == nil {
			must(errors.New("was accepted, must have "+r.Must), what+", "+r.Name)
		}
	}
}

func oKey(o []byte) string {
	sum := sha256.Sum256(slices.Concat([]byte("knhk.dev/o-key/v1\n"), o[:4], make([]byte, 8), o[12:]))
	return hex.EncodeToString(sum[:])
}

func checkObservations(v recordVectors, e edgeVectors) {
	for _, c := range v.Observation.Good {
		o := fromHex(c.Bytes)
		_, err := parseObservation(o)
		must(err, "observation, "+c.Name)
		demand(hex.EncodeToString(hashed("o", fromHex(v.Observation.Salt), o)) == c.HO, "H(O), "+c.Name)
		demand(oKey(o) == c.OKey, "O-key, "+c.Name)
	}
	for _, c := range e.Observation.Accepted {
		o, err := parseObservation(c.data())
		must(err, "observation, "+c.Name)
		sum := sha256.Sum256(o.body)
		same := strconv.FormatUint(o.timeNs, 10) == c.Fields.TimeNs && o.region == c.Fields.Region && o.route == c.Fields.Route &&
			hex.EncodeToString(sum[:]) == c.Fields.BodySha256 && len(o.attributes) == len(c.Fields.Attributes)
		for i := 0; same && i < len(o.attributes); i++ {
			same = o.attributes[i] == pair{c.Fields.Attributes[i][0], c.Fields.Attributes[i][1]}
		}
		demand(same, "fields of observation, "+c.Name)
		demand(oKey(c.data()) == c.OKey, "O-key, "+c.Name)
	}
	refuse("observation", slices.Concat(v.Observation.Bad, e.Observation.Refused), func(r row) error {
		_, err := parseObservation(r.data())
		return err
	})
}

func checkActions(v recordVectors, e edgeVectors) {
	for _, c := range slices.Concat(v.Action.Actions, e.Action.Accepted) {
		what := fmt.Sprintf("action of %d guards", c.Guards)
		a, err := parseAction(fromHex(c.Bytes))
		must(err, what)
		demand(a.verdict == c.Verdict && a.guards == c.Guards && slices.Equal(a.failing, c.Failing) && slices.Equal(a.triples, c.Triples), what)
		if c.HA != "" {
			demand(hex.EncodeToString(hashed("a", fromHex(v.Action.Salt), fromHex(c.Bytes))) == c.HA, "H(A), "+what)
		}
	}
	refuse("action", e.Action.Refused, func(r row) error {
		_, err := parseAction(r.data())
		return err
	})
}

func checkFrames(v recordVectors, e edgeVectors) {
	for _, c := range v.Frame.Outbox {
		segment := slices.Concat([]byte("KNHKSEG1"), make([]byte, 8), fromHex(c.Frame))
		payloads, end, err := parseSegment(segment, 0)
		must(err, "frame, "+c.Name)
		demand(len(payloads) == 1 && end == len(segment), "frame, "+c.Name)
		r, err := parseRecord(payloads[0])
		must(err, "record, "+c.Name)
		w := c.Record
		demand(hex.EncodeToString(r.salt) == c.Salt && hex.EncodeToString(r.o) == w.O && strconv.FormatUint(r.cluster, 10) == w.Cluster, "record, "+c.Name)
		demand(len(r.leaves) == len(w.Arms), "arms of record, "+c.Name)
		for i, l := range r.leaves {
			arm := armRow{hex.EncodeToString(r.actions[i]), hex.EncodeToString(l.pack), l.kind, l.class, l.verdict, l.mode, l.flags}
			demand(arm == w.Arms[i] && hex.EncodeToString(l.receipt) == w.Receipt && l.region == w.Region, "leaf of record, "+c.Name)
		}
	}
	for _, c := range e.Frame.Accepted {
		payloads, end, err := parseSegment(c.data(), c.Number)
		must(err, "segment, "+c.Name)
		same := slices.EqualFunc(payloads, c.Payloads, func(payload []byte, text string) bool { return bytes.Equal(payload, fromHex(text)) })
		demand(same && end == c.End, "segment, "+c.Name)
	}
	refuse("segment", e.Frame.Refused, func(r row) error {
		_, _, err := parseSegment(r.data(), r.Number)
		return err
	})
	refuse("record", e.Frame.RecordsRefused, func(r row) error {
		_, err := parseRecord(r.data())
		return err
	})
}

// openCheckpoint gives size and root of a checkpoint that the log signed.
func openCheckpoint(text string, verifier note.Verifier) (int64, tlog.Hash, error) {
	opened, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return 0, tlog.Hash{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return 0, tlog.Hash{}, errors.New("must have origin, size and root")
	}
	size, bad := strconv.ParseInt(lines[1], 10, 64)
	root, err := tlog.ParseHash(lines[2])
	return size, root, errors.Join(bad, err)
}

// checkProof holds a tlog-proof text against the entry.
func checkProof(text string, entry []byte, verifier note.Verifier) error {
	head, checkpoint, _ := strings.Cut(text, "\n\n")
	fields := strings.Split(head, "\n")
	if fields[0] != "c2sp.org/tlog-proof@v1" || len(fields) < 2 {
		return errors.New("must begin with c2sp.org/tlog-proof@v1 and an index")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(fields[1], "index "), 10, 64)
	size, root, bad := openCheckpoint(checkpoint, verifier)
	err = errors.Join(err, bad)
	var path []tlog.Hash
	for _, line := range fields[2:] {
		hash, bad := tlog.ParseHash(line)
		path, err = append(path, hash), errors.Join(err, bad)
	}
	if err != nil {
		return err
	}
	return tlog.CheckRecord(path, size, root, index, tlog.RecordHash(entry))
}

func checkRefusals(v logVectors, e edgeVectors) {
	verifier, err := note.NewVerifier(v.Vkey)
	must(err, "vkey")
	entry := fmt.Appendf(nil, "entry %d", v.Proof.Index)
	must(checkProof(v.Proof.Text, entry, verifier), "proof text")
	refuse("checkpoint", e.Log.CheckpointsRefused, func(r row) error {
		_, _, err := openCheckpoint(r.Text, verifier)
		return err
	})
	refuse("proof", e.Log.ProofsRefused, func(r row) error { return checkProof(r.Text, entry, verifier) })
}

// checkWal reads the append body and the WAL segment that holds the same entries.
func checkWal(v logVectors) {
	payloads, _, err := parseSegment(fromHex(v.WalSegment), 41)
	must(err, "WAL segment")
	demand(len(payloads) == 1, "WAL segment")
	c := cursor{data: payloads[0]}
	c.need(c.number(1) == 1, "type 1")
	c.need(c.number(8) == 41, "the first index")
	must(c.err, "WAL payload")
	demand(bytes.Equal(c.data, fromHex(v.AppendBody)), "entries of the WAL payload")
	for n := c.number(4); n > 0 && c.err == nil; n-- {
		key := c.take(17)
		l, err := parseLeaf(c.bytes16())
		must(err, "entry of the WAL payload")
		demand(bytes.Equal(key, l.key()), "key of the WAL payload")
	}
	must(c.end(), "WAL payload")
}
