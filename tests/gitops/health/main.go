// What Flux and Argo CD make of objects: kstatus' own code, and a health script in the interpreter that Argo CD runs it in.
//
// Standard input: {"script": LUA, "objects": {NAME: OBJECT}}. Standard output: {NAME: {"flux": {"status", "message"}, "argo": {"status", "message"}}}.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type told struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type asked struct {
	Script  string                     `json:"script"`
	Objects map[string]json.RawMessage `json:"objects"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var given asked
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		return err
	}
	found := map[string]map[string]told{}
	for name, text := range given.Objects {
		var object unstructured.Unstructured
		if err := object.UnmarshalJSON(text); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		flux, err := kstatus(&object)
		if err != nil {
			return fmt.Errorf("%s: kstatus: %w", name, err)
		}
		argo, err := health(&object, given.Script)
		if err != nil {
			return fmt.Errorf("%s: health script: %w", name, err)
		}
		found[name] = map[string]told{"flux": flux, "argo": argo}
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func kstatus(object *unstructured.Unstructured) (told, error) {
	result, err := status.Compute(object)
	if err != nil {
		return told{}, err
	}
	return told{string(result.Status), result.Message}, nil
}

// As Argo CD does: the object as global `obj`, the base, package and table libraries alone, one second, a table comes back. What is being
// deleted is Progressing before any script is asked.
func health(object *unstructured.Unstructured, script string) (told, error) {
	if object.GetDeletionTimestamp() != nil {
		return told{"Progressing", "Pending deletion"}, nil
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), NRet: 0, Protect: true}, lua.LString(name)); err != nil {
			return told{}, err
		}
	}
	limit, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(limit)
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoString(script); err != nil {
		return told{}, err
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return told{}, fmt.Errorf("must return a table")
	}
	return told{lua.LVAsString(answer.RawGetString("status")), lua.LVAsString(answer.RawGetString("message"))}, nil
}

func value(state *lua.LState, given any) lua.LValue {
	switch is := given.(type) {
	case bool:
		return lua.LBool(is)
	case float64:
		return lua.LNumber(is)
	case int64:
		return lua.LNumber(is)
	case string:
		return lua.LString(is)
	case []any:
		table := state.CreateTable(len(is), 0)
		for _, item := range is {
			table.Append(value(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(is))
		for name, item := range is {
			table.RawSetString(name, value(state, item))
		}
		return table
	}
	return lua.LNil
}
