// A client of grpc-go, the library of Thanos's queriers, for what its ways with cancelled calls and with a server that
// stops do to the sidecar. It knows no generated messages: requests and answers are bytes.
//
//	-mode cancel  keeps calls going over one connection and cancels each after 50 to 300 ms, for -duration; then makes
//	              calls that must succeed.
//	-mode hold    begins one call on each of several connections, says so, and reads on as soon as a line comes on
//	              standard input; then counts the answers that are complete.
//	-mode steady  makes calls over one connection that stays, and others over a new connection each; says so when each
//	              kind has succeeded; and counts how all ended when a line comes on standard input.
//	-mode snappy  makes calls whose requests are compressed as Thanos's querier does with --grpc-compression=snappy.
//
// The last line of its output is JSON.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
)

var (
	mode     = flag.String("mode", "cancel", "cancel, hold, steady or snappy")
	server   = flag.String("server", "", "the sidecar's gRPC address")
	ca       = flag.String("ca", "", "file of the CA that the server's certificate must come from; empty for no TLS")
	cert     = flag.String("cert", "", "file of the client's certificate")
	key      = flag.String("key", "", "file of the client's key")
	name     = flag.String("server-name", "localhost", "name in the server's certificate")
	calls    = flag.Int("calls", 30, "calls at once")
	duration = flag.Duration("duration", 6*time.Second, "how long calls are cancelled")
	later    = flag.Int("later", 20, "calls after that which must succeed")
	window   = flag.Int("window", 0, "flow-control window of streams and connections; 0 for the library's own")
	slow     = flag.String("slow", "slow", "label name in the requests of calls that are to be cancelled")
)

// report is what the test reads.
type report struct {
	Connections int64          `json:"connections"`
	Cancelled   int            `json:"cancelled"`
	Codes       map[string]int `json:"codes"`
	LaterOK     int            `json:"later_ok"`
	LaterErrors []string       `json:"later_errors"`
	Messages    []int          `json:"messages"`
	Held        int            `json:"held"`
}

// rawCodec passes bytes through.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (rawCodec) Name() string { return "proto" }

// request is a thanos.SeriesRequest for all times with the matcher label="x".
func request(label string) []byte {
	matcher := append([]byte{0x12, byte(len(label))}, label...)
	matcher = append(matcher, 0x1a, 1, 'x')
	message := binary.AppendUvarint([]byte{0x10}, 1<<63-1)
	return append(append(message, 0x1a, byte(len(matcher))), matcher...)
}

func transport() (grpc.DialOption, error) {
	if *ca == "" {
		return grpc.WithTransportCredentials(insecure.NewCredentials()), nil
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + *ca)
	}
	config := &tls.Config{RootCAs: roots, ServerName: *name}
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return grpc.WithTransportCredentials(credentials.NewTLS(config)), nil
}

// dial returns a client of one connection; every connection that it makes is counted.
func dial(made *atomic.Int64) (*grpc.ClientConn, error) {
	secured, err := transport()
	if err != nil {
		return nil, err
	}
	counted := func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			made.Add(1)
		}
		return conn, err
	}
	// A window of 0 leaves it to the library, which ignores what is below 64 KiB.
	return grpc.NewClient("passthrough:///"+*server, secured, grpc.WithContextDialer(counted),
		grpc.WithInitialWindowSize(int32(*window)), grpc.WithInitialConnWindowSize(int32(*window)),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{}), grpc.MaxCallRecvMsgSize(1<<30)))
}

func begin(ctx context.Context, conn *grpc.ClientConn, label string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/thanos.Store/Series",
		append(options, grpc.WaitForReady(true))...)
	if err != nil {
		return nil, err
	}
	ask := request(label)
	if err := stream.SendMsg(&ask); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream, stream.CloseSend()
}

// read takes an answer to its end and returns the number of its messages.
func read(stream grpc.ClientStream) (int, error) {
	for n := 0; ; n++ {
		var message []byte
		if err := stream.RecvMsg(&message); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
}

func cancelling(out *report) error {
	var made atomic.Int64
	conn, err := dial(&made)
	if err != nil {
		return err
	}
	defer conn.Close()
	var lock sync.Mutex
	var all sync.WaitGroup
	end := time.Now().Add(*duration)
	for i := 0; i < *calls; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for time.Now().Before(end) {
				ctx, cancel := context.WithCancel(context.Background())
				timer := time.AfterFunc(time.Duration(50+rand.Intn(250))*time.Millisecond, cancel)
				stream, err := begin(ctx, conn, *slow)
				if err == nil {
					_, err = read(stream)
				}
				timer.Stop()
				cancel()
				lock.Lock()
				out.Cancelled++
				out.Codes[status.Code(err).String()]++
				lock.Unlock()
			}
		}()
	}
	all.Wait()
	for i := 0; i < *later; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		stream, err := begin(ctx, conn, "job")
		n := 0
		if err == nil {
			n, err = read(stream)
		}
		cancel()
		out.Messages = append(out.Messages, n)
		if err == nil {
			out.LaterOK++
		} else {
			out.LaterErrors = append(out.LaterErrors, err.Error())
		}
	}
	out.Connections = made.Load()
	return nil
}

func holding(out *report) error {
	var made atomic.Int64
	streams := make([]grpc.ClientStream, *calls)
	for i := range streams {
		conn, err := dial(&made)
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if streams[i], err = begin(ctx, conn, "job"); err != nil {
			return err
		}
		var message []byte
		if err := streams[i].RecvMsg(&message); err != nil {
			return err
		}
	}
	fmt.Println("begun")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	var lock sync.Mutex
	var all sync.WaitGroup
	for _, stream := range streams {
		all.Add(1)
		go func(stream grpc.ClientStream) {
			defer all.Done()
			n, err := read(stream)
			lock.Lock()
			defer lock.Unlock()
			out.Codes[status.Code(err).String()]++
			// One had been read before.
			out.Messages = append(out.Messages, n+1)
		}(stream)
	}
	all.Wait()
	out.Connections = made.Load()
	return nil
}

// call makes one call and reads its answer.
func call(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := begin(ctx, conn, "job")
	if err != nil {
		return err
	}
	_, err = read(stream)
	return err
}

func steady(out *report) error {
	var made atomic.Int64
	var over atomic.Bool
	var lock sync.Mutex
	var all, begun sync.WaitGroup
	anew := func() error {
		conn, err := dial(&made)
		if err != nil {
			return err
		}
		defer conn.Close()
		return call(conn)
	}
	conn, err := dial(&made)
	if err != nil {
		return err
	}
	defer conn.Close()
	held := func() error {
		err := call(conn)
		lock.Lock()
		defer lock.Unlock()
		out.Held++
		return err
	}
	for _, work := range []func() error{held, anew} {
		all.Add(1)
		begun.Add(1)
		go func() {
			defer all.Done()
			for first := true; !over.Load(); first = false {
				err := work()
				lock.Lock()
				out.Codes[status.Code(err).String()]++
				if err != nil {
					out.LaterErrors = append(out.LaterErrors, err.Error())
				}
				lock.Unlock()
				if first {
					begun.Done()
				}
				// As many as a fleet of queriers makes, and time left for others.
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	begun.Wait()
	fmt.Println("begun")
	_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	over.Store(true)
	all.Wait()
	out.Connections = made.Load()
	return err
}

// snappy writes the framing format of snappy, with chunks that are not compressed.
type snappy struct{}

func (snappy) Name() string { return "snappy" }

func (snappy) Compress(w io.Writer) (io.WriteCloser, error) {
	_, err := w.Write([]byte("\xff\x06\x00\x00sNaPpY"))
	return chunks{w}, err
}

func (snappy) Decompress(r io.Reader) (io.Reader, error) {
	return nil, errors.New("the sidecar does not compress")
}

type chunks struct{ w io.Writer }

func (c chunks) Write(data []byte) (int, error) {
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	sum = (sum>>15 | sum<<17) + 0xa282ead8
	head := []byte{1}
	n := len(data) + 4
	head = append(head, byte(n), byte(n>>8), byte(n>>16))
	head = binary.LittleEndian.AppendUint32(head, sum)
	if _, err := c.w.Write(head); err != nil {
		return 0, err
	}
	return c.w.Write(data)
}

func (chunks) Close() error { return nil }

// compressing makes calls one after the other and counts the messages of each.
func compressing(out *report) error {
	encoding.RegisterCompressor(snappy{})
	var made atomic.Int64
	conn, err := dial(&made)
	if err != nil {
		return err
	}
	defer conn.Close()
	for range *calls {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		stream, err := begin(ctx, conn, "x", grpc.UseCompressor("snappy"))
		n := 0
		if err == nil {
			n, err = read(stream)
		}
		cancel()
		out.Messages = append(out.Messages, n)
		out.Codes[status.Code(err).String()]++
		if err != nil {
			out.LaterErrors = append(out.LaterErrors, err.Error())
		}
	}
	return nil
}

func main() {
	flag.Parse()
	out := report{Codes: map[string]int{}}
	work := map[string]func(*report) error{"cancel": cancelling, "hold": holding, "steady": steady, "snappy": compressing}[*mode]
	if work == nil {
		fmt.Fprintln(os.Stderr, "no such mode:", *mode)
		os.Exit(2)
	}
	if err := work(&out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	text, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}
