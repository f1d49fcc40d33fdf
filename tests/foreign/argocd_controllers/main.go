// Argo CD's application-controller and repo-server in one program, which the first argument chooses, as Argo CD's own program does by its
// name; without the API server, its user interface and the command line. And the redis that both ask for, in memory.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alicebob/miniredis/v2"
	controller "github.com/argoproj/argo-cd/v2/cmd/argocd-application-controller/commands"
	reposerver "github.com/argoproj/argo-cd/v2/cmd/argocd-repo-server/commands"
	"github.com/spf13/cobra"
)

func redis(_ *cobra.Command, address []string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(address[0]); err != nil {
		return err
	}
	defer server.Close()
	<-stop
	return nil
}

func main() {
	root := &cobra.Command{Use: "argocd-controllers", SilenceUsage: true}
	store := &cobra.Command{Use: "redis HOST:PORT", Args: cobra.ExactArgs(1), RunE: redis}
	root.AddCommand(controller.NewCommand(), reposerver.NewCommand(), store)
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
