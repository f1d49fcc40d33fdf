package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"regexp"
	"unicode/utf8"
)

// cursor reads fields one after another; the first fault stays.
type cursor struct {
	data []byte
	err  error
}

func (c *cursor) need(ok bool, must string) {
	if c.err == nil && !ok {
		c.err = errors.New("must have " + must)
	}
}

func (c *cursor) take(n uint64) []byte {
	c.need(n <= uint64(len(c.data)), "lengths within the bytes")
	if c.err != nil {
		return nil
	}
	taken := c.data[:n]
	c.data = c.data[n:]
	return taken
}

func (c *cursor) number(size int) uint64 {
	var wide [8]byte
	copy(wide[8-size:], c.take(uint64(size)))
	return binary.BigEndian.Uint64(wide[:])
}

func (c *cursor) bytes16() []byte { return c.take(c.number(2)) }
func (c *cursor) bytes32() []byte { return c.take(c.number(4)) }

func (c *cursor) end() error {
	c.need(len(c.data) == 0, "no bytes after the end")
	return c.err
}

// Leaf of formats/leaf.md.
type leaf struct {
	kind, class, verdict, mode, flags uint8
	region                            uint16
	hO, hA, pack, receipt             []byte
	timeNs                            uint64
}

func parseLeaf(data []byte) (leaf, error) {
	c := cursor{data: data}
	version := c.number(1)
	l := leaf{
		kind: uint8(c.number(1)), class: uint8(c.number(1)), verdict: uint8(c.number(1)), mode: uint8(c.number(1)),
		flags: uint8(c.number(1)), region: uint16(c.number(2)), hO: c.take(32), hA: c.take(32), pack: c.take(20),
		timeNs: c.number(8), receipt: c.take(16),
	}
	reserved := c.number(2)
	decided := l.kind == 1
	c.need(version == 1, "version 1")
	c.need(l.kind >= 1 && l.kind <= 4, "kind 1 to 4")
	c.need(l.class <= 3, "class 0 to 3")
	c.need(l.verdict <= 2 && (!decided || l.verdict > 0), "a verdict")
	c.need(l.mode == 1 || l.mode == 2, "mode 1 or 2")
	c.need(l.flags < 64, "known flags")
	c.need(decided || bytes.Equal(l.hA, make([]byte, 32)), "zeros as H(A) of a disposition")
	c.need(reserved == 0, "reserved 0")
	return l, c.end()
}

// key is that of an idempotent append: receipt id and arm.
func (l leaf) key() []byte { return append(bytes.Clone(l.receipt), l.flags&1) }

type pair struct{ name, value string }

// Observation of formats/observation.md.
type observation struct {
	timeNs        uint64
	region, route string
	attributes    []pair
	body          []byte
}

var (
	regionForm = regexp.MustCompile(`\A[a-z0-9-]{0,63}\z`)
	nameForm   = regexp.MustCompile(`\A[a-z0-9_.-]{1,63}\z`)
)

func parseObservation(data []byte) (observation, error) {
	c := cursor{data: data}
	c.need(string(c.take(4)) == "KNO1", "KNO1")
	o := observation{timeNs: c.number(8), region: string(c.bytes16()), route: string(c.bytes16())}
	c.need(regionForm.MatchString(o.region), "a region")
	c.need(utf8.ValidString(o.route), "a route in UTF-8")
	c.take(64)
	n := c.number(2)
	c.need(n <= 64, "at most 64 attributes")
	for i := uint64(0); i < n && c.err == nil; i++ {
		p := pair{string(c.bytes16()), string(c.bytes32())}
		c.need(nameForm.MatchString(p.name), "a name")
		c.need(len(p.value) <= 4096 && utf8.ValidString(p.value), "a value of at most 4,096 bytes of UTF-8")
		c.need(i == 0 || o.attributes[i-1].name < p.name, "names strictly ascending")
		o.attributes = append(o.attributes, p)
	}
	o.body = c.bytes32()
	c.need(len(o.body) <= 1<<20, "a body of at most 1 MiB")
	return o, c.end()
}

// Action of formats/action.md.
type action struct {
	verdict uint8
	guards  int
	failing []int
	triples []string
}

func parseAction(data []byte) (action, error) {
	c := cursor{data: data}
	c.need(string(c.take(4)) == "KNA1", "KNA1")
	a := action{verdict: uint8(c.number(1))}
	c.need(a.verdict == 1 || a.verdict == 2, "verdict 1 or 2")
	c.need(c.number(1) == 0, "reserved 0")
	a.guards = int(c.number(2))
	for at, eight := range c.take(uint64(a.guards+7) / 8) {
		for bit := range 8 {
			if eight>>bit&1 == 1 {
				a.failing = append(a.failing, 8*at+bit)
			}
		}
	}
	c.need(len(a.failing) == 0 || a.failing[len(a.failing)-1] < a.guards, "unused bits 0")
	n := c.number(2)
	c.need(n <= 8, "at most 8 triples")
	for i := uint64(0); i < n && c.err == nil; i++ {
		triple := string(c.bytes32())
		c.need(i == 0 || a.triples[i-1] < triple, "triples strictly ascending")
		a.triples = append(a.triples, triple)
	}
	return a, c.end()
}

const maxFrame = 64 << 20

// parseSegment gives the payloads of a segment (formats/frame.md) and where its last whole frame ends; a torn tail is no fault.
func parseSegment(data []byte, number uint64) ([][]byte, int, error) {
	c := cursor{data: data}
	c.need(string(c.take(8)) == "KNHKSEG1", "KNHKSEG1")
	c.need(c.number(8) == number, "the number of the segment")
	if c.err != nil {
		return nil, 0, c.err
	}
	var payloads [][]byte
	at := 16
	for len(data)-at >= 8 {
		size := int(binary.BigEndian.Uint32(data[at:]))
		if size == 0 || size > maxFrame || size > len(data)-at-8 {
			break
		}
		payload := data[at+8 : at+8+size]
		crc := crc32.Update(crc32.ChecksumIEEE(data[at:at+4]), crc32.IEEETable, payload)
		if crc != binary.BigEndian.Uint32(data[at+4:]) {
			return nil, 0, fmt.Errorf("offset %d: must have the crc of its length and payload", at)
		}
		payloads = append(payloads, payload)
		at += 8 + size
	}
	return payloads, at, nil
}

// Record of the outbox, formats/frame.md.
type record struct {
	cluster uint64
	salt, o []byte
	leaves  []leaf
	actions [][]byte
}

// parseRecord also holds leaves, O and A against one another.
func parseRecord(data []byte) (record, error) {
	c := cursor{data: data}
	kind, arms, flags := c.number(1), c.number(1), c.number(2)
	c.need(kind == 1 && (arms == 1 || arms == 2) && flags <= 2, "type 1, 1 or 2 leaves, flags 0 to 2")
	r := record{cluster: c.number(8), salt: c.take(16)}
	var leaves [][]byte
	for i := uint64(0); i < arms && c.err == nil; i++ {
		leaves = append(leaves, c.take(118))
	}
	r.o = c.bytes32()
	for i := uint64(0); i < arms && c.err == nil; i++ {
		r.actions = append(r.actions, c.bytes32())
	}
	if err := c.end(); err != nil || flags != 0 {
		return r, err
	}
	o, err := parseObservation(r.o)
	for i, data := range leaves {
		l, bad := parseLeaf(data)
		err = errors.Join(err, bad)
		if err == nil {
			err = l.agrees(r.salt, o.timeNs, r.o, r.actions[i])
		}
		r.leaves = append(r.leaves, l)
	}
	return r, err
}

func (l leaf) agrees(salt []byte, timeNs uint64, o, a []byte) error {
	var c cursor
	c.need(l.timeNs == timeNs, "the time of O")
	c.need(bytes.Equal(l.hO, hashed("o", salt, o)), "H(O) of salt and O")
	if l.kind != 1 {
		c.need(len(a) == 0, "no A of a disposition")
		return c.err
	}
	c.need(bytes.Equal(l.hA, hashed("a", salt, a)), "H(A) of salt and A")
	parsed, err := parseAction(a)
	c.need(parsed.verdict == l.verdict, "the verdict of A")
	return errors.Join(c.err, err)
}

// hashed is H(O) or H(A).
func hashed(domain string, salt, data []byte) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "knhk.dev/%s/v1\n%s%s", domain, salt, data))
	return sum[:]
}
