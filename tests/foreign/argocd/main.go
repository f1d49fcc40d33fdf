// Synchronises a folder of manifests with a cluster as Argo CD does, by its own engine, and tells what it finds:
//
//	argocd-sync KUBECONFIG FOLDER look|sync
//
// Standard output, one JSON object: {"outOfSync": [KIND/NAME of what differs, is missing or is to be pruned], "results": {KIND/NAME: message}},
// the first of `look`, the second of `sync`.
// What is managed carries the label app.kubernetes.io/instance=knhk-policies, as Argo CD marks it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/argoproj/gitops-engine/pkg/cache"
	"github.com/argoproj/gitops-engine/pkg/diff"
	"github.com/argoproj/gitops-engine/pkg/engine"
	"github.com/argoproj/gitops-engine/pkg/sync"
	"github.com/argoproj/gitops-engine/pkg/utils/kube"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	label    = "app.kubernetes.io/instance"
	instance = "knhk-policies"
	within   = 60 * time.Second
)

type told struct {
	OutOfSync []string          `json:"outOfSync"`
	Results   map[string]string `json:"results"`
}

func main() {
	found, err := run(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(words []string) (told, error) {
	found := told{[]string{}, map[string]string{}}
	if len(words) != 3 || (words[2] != "look" && words[2] != "sync") {
		return found, fmt.Errorf("usage: argocd-sync KUBECONFIG FOLDER look|sync")
	}
	config, err := clientcmd.BuildConfigFromFlags("", words[0])
	if err != nil {
		return found, err
	}
	config.QPS, config.Burst = 200, 400 // as Argo CD's controller asks; the library's five a second make a look take 12 s
	wanted, err := manifests(words[1])
	if err != nil {
		return found, err
	}
	log := logr.Discard()
	live := cache.NewClusterCache(config, cache.SetLogr(log), cache.SetPopulateResourceInfoHandler(
		func(object *unstructured.Unstructured, _ bool) (interface{}, bool) {
			ours := object.GetLabels()[label] == instance
			return ours, ours
		}))
	argo := engine.NewEngine(config, live, engine.WithLogr(log))
	stop, err := argo.Run()
	if err != nil {
		return found, err
	}
	defer stop()
	managed := func(resource *cache.Resource) bool { ours, _ := resource.Info.(bool); return ours }
	if words[2] == "sync" {
		patience, end := context.WithTimeout(context.Background(), within)
		defer end()
		results, err := argo.Sync(patience, wanted, managed, "test", "erp", sync.WithPrune(true), sync.WithLogr(log))
		if err != nil {
			return found, err
		}
		for _, result := range results {
			found.Results[named(result.ResourceKey)] = result.Message
		}
		return found, nil // what the cache knows now may be older than what was written
	}
	found.OutOfSync, err = outOfSync(live, wanted, managed)
	return found, err
}

func named(key kube.ResourceKey) string { return key.Kind + "/" + key.Name }

func outOfSync(live cache.ClusterCache, wanted []*unstructured.Unstructured, managed func(*cache.Resource) bool) ([]string, error) {
	names := []string{}
	there, err := live.GetManagedLiveObjs(wanted, managed)
	if err != nil {
		return names, err
	}
	pairs := sync.Reconcile(wanted, there, "erp", live)
	compared, err := diff.DiffArray(pairs.Target, pairs.Live)
	if err != nil {
		return names, err
	}
	for i, one := range compared.Diffs {
		object := pairs.Target[i]
		if object == nil {
			object = pairs.Live[i]
		}
		if one.Modified || pairs.Target[i] == nil || pairs.Live[i] == nil {
			names = append(names, named(kube.GetResourceKey(object)))
		}
	}
	sort.Strings(names)
	return names, nil
}

func manifests(folder string) ([]*unstructured.Unstructured, error) {
	var found []*unstructured.Unstructured
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		objects, err := kube.SplitYAML(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, object := range objects {
			labels := object.GetLabels()
			if labels == nil {
				labels = map[string]string{}
			}
			labels[label] = instance
			object.SetLabels(labels)
			found = append(found, object)
		}
	}
	return found, nil
}
