// Writes the golden files of this folder, with Prometheus's own code. README.txt beside it says how.
//
//	go run ./make made >made.txt
//	go run ./make read http://127.0.0.1:9090 SELECTOR... >real.txt
package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gogo/protobuf/proto"
	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// Prometheus's head closes a chunk of floats at this count; longer ones are written in pieces of it.
const pieceSamples = 240

var out = bufio.NewWriter(os.Stdout)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// piece is a plain chunk that holds what an iterator yields.
type piece struct {
	encoding    chunkenc.Encoding
	first, last int64
	chunk       chunkenc.Chunk
}

// plain puts what Prometheus's iterator yields into chunks of Prometheus's plain encoding.
func plain(c chunkenc.Chunk) []piece {
	var pieces []piece
	var app chunkenc.Appender
	it := c.Iterator(nil)
	for n := 0; ; n++ {
		kind := it.Next()
		if kind == chunkenc.ValNone {
			break
		}
		if n == 0 || (kind == chunkenc.ValFloat && n%pieceSamples == 0) {
			chunk, err := kind.NewChunk(false, false)
			check(err)
			app, err = chunk.Appender()
			check(err)
			pieces = append(pieces, piece{chunk.Encoding(), it.AtT(), 0, chunk})
		}
		p := &pieces[len(pieces)-1]
		p.last = it.AtT()
		var other chunkenc.Chunk
		var err error
		switch kind {
		case chunkenc.ValFloat:
			t, v := it.At()
			app.Append(0, t, v)
		case chunkenc.ValHistogram:
			t, h := it.AtHistogram(nil)
			other, _, _, err = app.AppendHistogram(nil, 0, t, h, true)
		case chunkenc.ValFloatHistogram:
			t, h := it.AtFloatHistogram(nil)
			other, _, _, err = app.AppendFloatHistogram(nil, 0, t, h, true)
		}
		check(err)
		if other != nil {
			panic("the samples of one chunk do not fit into one")
		}
	}
	check(it.Err())
	for _, p := range pieces {
		if p.encoding != chunkenc.EncXOR {
			// The header of the chunk, which hints of samples do not always tell.
			p.chunk.Bytes()[2] = byte(c.(interface {
				GetCounterResetHeader() chunkenc.CounterResetHeader
			}).GetCounterResetHeader())
		}
	}
	compare(c, pieces)
	return pieces
}

// compare panics unless the pieces yield what the chunk yields.
func compare(c chunkenc.Chunk, pieces []piece) {
	it := c.Iterator(nil)
	for _, p := range pieces {
		plain := p.chunk.Iterator(nil)
		for plain.Next() != chunkenc.ValNone {
			if a, b := it.Next(), it.AtT(); a == chunkenc.ValNone || b != plain.AtT() {
				panic("other times")
			}
			if p.encoding == chunkenc.EncXOR {
				_, a := it.At()
				_, b := plain.At()
				if math.Float64bits(a) != math.Float64bits(b) {
					panic("other values")
				}
				continue
			}
			_, a := it.AtFloatHistogram(nil)
			_, b := plain.AtFloatHistogram(nil)
			if !a.Equals(b) || a.CounterResetHint != b.CounterResetHint || !bytes.Equal(bits(a), bits(b)) {
				panic(fmt.Sprintf("other histograms:\n%v\n%v", a, b))
			}
		}
		check(plain.Err())
	}
	if it.Next() != chunkenc.ValNone {
		panic("more samples")
	}
}

func bits(h *histogram.FloatHistogram) []byte {
	var all []byte
	for _, v := range append([]float64{h.Sum, h.Count, h.ZeroCount, h.ZeroThreshold}, h.CustomValues...) {
		all = fmt.Appendf(all, "%x ", math.Float64bits(v))
	}
	return all
}

func write(name string, c chunkenc.Chunk, min, max int64) {
	fmt.Fprintf(out, "chunk %s %d %d %d %s\n", name, c.Encoding(), min, max, hex.EncodeToString(c.Bytes()))
	for _, p := range plain(c) {
		fmt.Fprintf(out, "plain %d %d %d %s\n", p.encoding, p.first, p.last, hex.EncodeToString(p.chunk.Bytes()))
	}
}

func ends(c chunkenc.Chunk) (int64, int64) {
	it := c.Iterator(nil)
	it.Next()
	first, last := it.AtT(), it.AtT()
	for it.Next() != chunkenc.ValNone {
		last = it.AtT()
	}
	check(it.Err())
	return first, last
}

// stModes say the start timestamp of the n-th sample, from its time and the one before.
var stModes = []struct {
	name string
	at   func(n int, t, before int64) int64
}{
	{"none", func(int, int64, int64) int64 { return 0 }},
	{"constant", func(int, int64, int64) int64 { return 1_699_999_000_123 }},
	{"second", func(n int, _, _ int64) int64 { return int64(min(n, 1)) * 1_699_999_000_123 }},
	{"delta", func(_ int, _, before int64) int64 { return before }},
	{"late", func(n int, t, _ int64) int64 { return int64(n/5) * (t / 1000) }},
	{"reset", func(n int, t, _ int64) int64 {
		if n%7 == 6 {
			return 0
		}
		return t - int64(n%7)*14_993
	}},
	{"wild", func(n int, t, _ int64) int64 { return t - (int64(1) << (n * 3 % 62)) + 1 }},
}

// floatShapes say the step to the n-th sample in ms and its value.
var stale = math.Float64frombits(value.StaleNaN)
var floatShapes = []struct {
	name string
	at   func(n int, r *rand.Rand) (int64, float64)
}{
	{"constant", func(int, *rand.Rand) (int64, float64) { return 15_000, 1 }},
	{"counter", func(n int, _ *rand.Rand) (int64, float64) { return 15_000, float64(n * 17) }},
	{"gauge", func(_ int, r *rand.Rand) (int64, float64) { return 15_000 + r.Int63n(9) - 4, float64(r.Intn(50)) / 10 }},
	{"random", func(_ int, r *rand.Rand) (int64, float64) { return 1 + r.Int63n(100_000), r.NormFloat64() }},
	{"bits", func(_ int, r *rand.Rand) (int64, float64) {
		return r.Int63n(1 << r.Intn(40)), math.Float64frombits(r.Uint64() & r.Uint64())
	}},
	{"special", func(n int, _ *rand.Rand) (int64, float64) {
		all := []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.Copysign(0, -1), stale, math.MaxFloat64,
			math.SmallestNonzeroFloat64, math.Float64frombits(0xfff4_0000_dead_beef), stale, stale, 1}
		return 15_000, all[n%len(all)]
	}},
	{"stale", func(n int, r *rand.Rand) (int64, float64) {
		v := []float64{stale, 5, stale, stale, 5, 6, 6, stale}[n%8]
		return 15_000 + int64(n%3)*r.Int63n(5), v
	}},
	{"edges", func(n int, _ *rand.Rand) (int64, float64) {
		all := []int64{0, -4096, 4095, 4096, -4097, -524_288, 524_287, 524_288, -524_289, 1 << 40, -(1 << 40), 8192, -8192,
			65_536, -65_536, 524_289, 1}
		return 1<<41 + all[n%len(all)]*int64(n%2+1), float64(n / 3)
	}},
}

func floats(name string, n int, start int64, shape func(int, *rand.Rand) (int64, float64), st func(int, int64, int64) int64) {
	r := rand.New(rand.NewSource(int64(n) * 7))
	c := chunkenc.NewXOR2Chunk()
	app, err := c.Appender()
	check(err)
	t := start
	for idx := range n {
		step, v := shape(idx, r)
		before := t
		if idx > 0 {
			t += step
		}
		app.Append(st(idx, t, before), t, v)
	}
	first, last := ends(c)
	write(name, c, first, last)
}

// sparse makes the n-th histogram of a counter.
func sparse(n int, schema int32, threshold float64, grows bool) *histogram.Histogram {
	h := &histogram.Histogram{
		Schema: schema, ZeroThreshold: threshold, ZeroCount: uint64(n / 2), Sum: 12.5 * float64(n),
		PositiveSpans:   []histogram.Span{{Offset: -3, Length: 2}, {Offset: 1000, Length: 3}},
		PositiveBuckets: []int64{int64(n), int64(n * 2), -int64(n), 7, int64(n*n) - 3},
		NegativeSpans:   []histogram.Span{{Offset: 5, Length: 1}},
		NegativeBuckets: []int64{int64(3 * n)},
	}
	if grows && n >= 9 {
		h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: 2, Length: 1})
		h.PositiveBuckets = append(h.PositiveBuckets, int64(n))
	}
	count(h)
	return h
}

// custom makes the n-th histogram with bounds of its own.
func custom(n int) *histogram.Histogram {
	h := &histogram.Histogram{
		Schema: histogram.CustomBucketsSchema, Sum: float64(n) / 3,
		PositiveSpans:   []histogram.Span{{Offset: 0, Length: 6}},
		PositiveBuckets: []int64{int64(n), 0, 1, -1, int64(n), 3},
		CustomValues:    []float64{-1.5, 0.001, 0.25, 33554.43, 1e9},
	}
	count(h)
	return h
}

func count(h *histogram.Histogram) {
	h.Count = h.ZeroCount
	for _, buckets := range [][]int64{h.PositiveBuckets, h.NegativeBuckets} {
		var current int64
		for _, b := range buckets {
			current += b
			h.Count += uint64(current)
		}
	}
}

var histogramShapes = []struct {
	name string
	at   func(n int) *histogram.Histogram
}{
	{"counter", func(n int) *histogram.Histogram { return sparse(n+3, 2, 0.001, false) }},
	{"grows", func(n int) *histogram.Histogram { return sparse(n+3, -4, math.Ldexp(0.5, -127), true) }},
	{"custom", custom},
	{"stale", func(n int) *histogram.Histogram {
		if n >= 17 {
			return &histogram.Histogram{Sum: stale}
		}
		return sparse(n+3, 8, 0, false)
	}},
	{"only-stale", func(int) *histogram.Histogram { return &histogram.Histogram{Sum: stale} }},
	{"empty", func(int) *histogram.Histogram { return &histogram.Histogram{Schema: 3, ZeroThreshold: 1e-200} }},
	{"gauge", func(n int) *histogram.Histogram {
		h := sparse((n*37)%11+3, 0, 1, false)
		h.CounterResetHint = histogram.GaugeType
		return h
	}},
	{"reset", func(n int) *histogram.Histogram {
		h := sparse(n%10+3, 1, 0.001, false)
		if n == 0 {
			h.CounterResetHint = histogram.CounterReset
		}
		h.Sum = []float64{math.NaN(), math.Inf(1), -0.5}[n%3]
		return h
	}},
}

func histograms(name string, n int, isFloat bool, shape func(int) *histogram.Histogram, st func(int, int64, int64) int64) {
	kind := chunkenc.ValHistogram
	if isFloat {
		kind = chunkenc.ValFloatHistogram
	}
	c, err := kind.NewChunk(true, true)
	check(err)
	app, err := c.Appender()
	check(err)
	var done []chunkenc.Chunk
	t := int64(1_700_000_000_000)
	for idx := range n {
		before := t
		if idx > 0 {
			t += 15_000 + int64(idx*idx%5)
		}
		h := shape(idx)
		var next chunkenc.Chunk
		var recoded bool
		if isFloat {
			fh := h.ToFloat(nil)
			if !value.IsStaleNaN(fh.Sum) {
				fh.Count, fh.ZeroCount = fh.Count+0.25, fh.ZeroCount+0.25
			}
			next, recoded, app, err = app.AppendFloatHistogram(nil, st(idx, t, before), t, fh, false)
		} else {
			next, recoded, app, err = app.AppendHistogram(nil, st(idx, t, before), t, h, false)
		}
		check(err)
		if next != nil {
			if !recoded {
				done = append(done, c)
			}
			c = next
		}
	}
	for idx, c := range append(done, c) {
		first, last := ends(c)
		write(fmt.Sprintf("%s-%d", name, idx), c, first, last)
	}
}

func made() {
	for _, st := range stModes {
		for _, shape := range floatShapes {
			floats("float-"+shape.name+"-"+st.name, 40, 1_700_000_000_000, shape.at, st.at)
		}
		for _, shape := range histogramShapes {
			histograms("histogram-"+shape.name+"-"+st.name, 25, false, shape.at, st.at)
			histograms("float-histogram-"+shape.name+"-"+st.name, 25, true, shape.at, st.at)
		}
		for _, n := range []int{1, 2, 3, 126, 127, 128, 129, 130} {
			floats(fmt.Sprintf("float-count-%d-%s", n, st.name), n, -20_000, floatShapes[0].at, st.at)
		}
		histograms("histogram-long-"+st.name, 131, false, custom, st.at)
	}
	// What the count of samples asks for.
	none := stModes[0].at
	for _, n := range []int{239, 240, 241, 480, 481, 2000} {
		floats(fmt.Sprintf("float-long-%d", n), n, 0, floatShapes[0].at, none)
	}
	floats("float-long-counter", 1000, 1_700_000_000_000, floatShapes[1].at, stModes[1].at)
}

// read writes the chunks that a Prometheus streams for some selectors, those that it wrote in a new encoding.
func read(url string, selectors []string) {
	n := 0
	for _, selector := range selectors {
		matchers, err := parser.NewParser(parser.Options{}).ParseMetricSelector(selector)
		check(err)
		query, err := remote.ToQuery(0, time.Now().UnixMilli(), matchers, nil)
		check(err)
		request := &prompb.ReadRequest{
			Queries:               []*prompb.Query{query},
			AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{prompb.ReadRequest_STREAMED_XOR_CHUNKS},
		}
		body, err := proto.Marshal(request)
		check(err)
		response, err := http.Post(url+"/api/v1/read", "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, body)))
		check(err)
		if response.StatusCode != http.StatusOK {
			log.Fatal(response.Status)
		}
		frames := remote.NewChunkedReader(response.Body, 50_000_000, nil)
		for {
			var frame prompb.ChunkedReadResponse
			err := frames.NextProto(&frame)
			if errors.Is(err, io.EOF) {
				break
			}
			check(err)
			for _, series := range frame.ChunkedSeries {
				for _, chunk := range series.Chunks {
					c, err := chunkenc.FromData(chunkenc.Encoding(chunk.Type), chunk.Data)
					check(err)
					if c.Encoding() <= chunkenc.EncFloatHistogram {
						continue
					}
					name := labels.FromMap(func() map[string]string {
						m := map[string]string{}
						for _, l := range series.Labels {
							m[l.Name] = l.Value
						}
						return m
					}()).Get("__name__")
					write(fmt.Sprintf("%s-%d", name, n), c, chunk.MinTimeMs, chunk.MaxTimeMs)
					n++
				}
			}
		}
		check(response.Body.Close())
	}
	if n == 0 {
		log.Fatal("no chunk in a new encoding for " + strings.Join(selectors, " "))
	}
}

func main() {
	defer func() { check(out.Flush()) }()
	switch {
	case len(os.Args) == 2 && os.Args[1] == "made":
		made()
	case len(os.Args) > 3 && os.Args[1] == "read":
		read(os.Args[2], os.Args[3:])
	default:
		log.Fatal("usage: made | read URL SELECTOR...")
	}
}
