// A certificate transparency log (RFC 6962) for tests: CTFE in front of Trillian, both as their projects ship them, in one process and over
// Trillian's own storage in memory, so that neither a database nor three servers are needed.
package main

import (
	"context"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/certificate-transparency-go/trillian/ctfe"
	"github.com/google/certificate-transparency-go/trillian/ctfe/configpb"
	"github.com/google/trillian"
	"github.com/google/trillian/client"
	"github.com/google/trillian/crypto/keys"
	"github.com/google/trillian/crypto/keys/der"
	"github.com/google/trillian/crypto/keyspb"
	"github.com/google/trillian/extension"
	sequencing "github.com/google/trillian/log"
	"github.com/google/trillian/monitoring"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/server/admin"
	"github.com/google/trillian/storage/memory"
	"github.com/google/trillian/util/clock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

const prefix = "ct"

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address of the log")
	key := flag.String("key", "", "private key of the log, PEM of PKCS#8")
	roots := flag.String("roots", "", "certificates whose issues are taken, PEM")
	folder := flag.String("dir", "", "folder for a Unix socket")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *listen, *key, *roots, *folder); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen, key, roots, folder string) error {
	socket := filepath.Join(folder, "trillian.sock")
	treeId, conn, err := startTrillian(ctx, socket)
	if err != nil {
		return err
	}
	handlers, err := frontEnd(ctx, conn, treeId, key, roots)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	for path, handler := range handlers {
		mux.Handle(path, handler)
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/%s\n", listener.Addr(), prefix)
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { <-ctx.Done(); web.Close() }()
	if err := web.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// startTrillian serves a new tree on a Unix socket and integrates what it queues.
func startTrillian(ctx context.Context, socket string) (int64, *grpc.ClientConn, error) {
	trees := memory.NewTreeStorage()
	registry := extension.Registry{
		AdminStorage:  memory.NewAdminStorage(trees),
		LogStorage:    memory.NewLogStorage(trees, monitoring.InertMetricFactory{}),
		QuotaManager:  quota.Noop(),
		MetricFactory: monitoring.InertMetricFactory{},
	}
	services := grpc.NewServer()
	trillian.RegisterTrillianAdminServer(services, admin.New(registry, nil))
	trillian.RegisterTrillianLogServer(services, server.NewTrillianLogRPCServer(registry, clock.System))
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return 0, nil, err
	}
	go services.Serve(listener)
	operations := sequencing.OperationInfo{
		Registry: registry, BatchSize: 100, NumWorkers: 1, RunInterval: 50 * time.Millisecond, TimeSource: clock.System,
	}
	go sequencing.NewOperationManager(operations, sequencing.NewSequencerManager(registry, 0)).OperationLoop(ctx)
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, nil, err
	}
	wanted := &trillian.CreateTreeRequest{Tree: &trillian.Tree{
		TreeState: trillian.TreeState_ACTIVE, TreeType: trillian.TreeType_LOG, MaxRootDuration: durationpb.New(time.Hour),
	}}
	tree, err := client.CreateAndInitTree(ctx, wanted, trillian.NewTrillianAdminClient(conn), trillian.NewTrillianLogClient(conn))
	if err != nil {
		return 0, nil, err
	}
	return tree.TreeId, conn, nil
}

func frontEnd(ctx context.Context, conn *grpc.ClientConn, treeId int64, key, roots string) (ctfe.PathHandlers, error) {
	keys.RegisterHandler(&keyspb.PrivateKey{}, der.FromProto)
	data, err := os.ReadFile(key)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: must be PEM", key)
	}
	private, err := anypb.New(&keyspb.PrivateKey{Der: block.Bytes})
	if err != nil {
		return nil, err
	}
	told := &configpb.LogConfig{LogId: treeId, Prefix: prefix, RootsPemFile: []string{roots}, PrivateKey: private, LogBackendName: "here"}
	valid, err := ctfe.ValidateLogConfig(told)
	if err != nil {
		return nil, err
	}
	instance, err := ctfe.SetUpInstance(ctx, ctfe.InstanceOptions{
		Validated: valid, Client: trillian.NewTrillianLogClient(conn), Deadline: 10 * time.Second,
		MetricFactory: monitoring.InertMetricFactory{}, RequestLog: new(ctfe.DefaultRequestLog),
	})
	if err != nil {
		return nil, err
	}
	return instance.Handlers, nil
}

