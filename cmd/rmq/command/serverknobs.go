package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/rmqio/rmq/broker/dedup"
	"github.com/rmqio/rmq/broker/sequence"
)

// The roles of a server process.
const (
	roleAll        = "all"
	roleNameServer = "nameserver"
	roleBroker     = "broker"
)

var roles = []string{roleAll, roleNameServer, roleBroker}

// knob is one setting of the server: where it may be said, and what holds when
// nobody says it.
type knob struct {
	key   string   // in the configuration file
	flag  string   // default: the key with dashes; noFlag: none
	env   []string // asked in this order
	def   string
	roles []string // none: all of them
}

// noFlag is for a knob of the environment and the file alone.
const noFlag = "-"

func (k knob) appliesTo(role string) bool { return len(k.roles) == 0 || slices.Contains(k.roles, role) }

// serverKnobs are the settings of a role and their defaults. The metrics port
// of a lone name server differs, so that it can share a machine with a broker.
func serverKnobs(role string) []knob {
	brokers := []string{roleAll, roleBroker}
	listen, http := defaultNameServer, "127.0.0.1:5557"
	switch role {
	case roleBroker:
		listen = "127.0.0.1:10911"
	case roleNameServer:
		http = "127.0.0.1:5558"
	}
	knobs := []knob{
		{key: "listen", def: listen},
		{key: "http", def: http},
		{key: "insecure", def: "false"},
		{key: "log.level", def: "info"},
		{key: "broker.store.path", flag: "data", def: "./rmq-data", roles: brokers},
		{key: "broker.store.flush", flag: "flush", def: "sync", roles: brokers},
		{key: "broker.retention.age", flag: "retention", def: "72h", roles: brokers},
		{key: "broker.retention.bytes", flag: "retention-bytes", def: "0", roles: brokers},
		{key: "broker.disk.warn", flag: noFlag, def: "75", roles: brokers},
		{key: "broker.disk.clean", flag: noFlag, def: "85", roles: brokers},
		{key: "broker.disk.refuse", flag: noFlag, def: "90", roles: brokers},
		{key: "broker.disk.plenty", flag: noFlag, def: "16GiB", roles: brokers},
		{key: "broker.delay.levels", flag: noFlag, def: "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h", roles: brokers},
		{key: "broker.delay.max", flag: noFlag, def: "8784h", roles: brokers},
		{key: "broker.transaction.first-check", flag: noFlag, def: "6s", roles: brokers},
		{key: "broker.transaction.check-interval", flag: noFlag, def: "30s", roles: brokers},
		{key: "broker.transaction.max-checks", flag: noFlag, def: "15", roles: brokers},
		{key: "broker.producer.expiry", flag: noFlag, def: "24h", roles: brokers},
		{key: "broker.producer.max", flag: noFlag, def: number(sequence.DefaultLimit), roles: brokers},
		{key: "broker.dedup.window", flag: noFlag, def: "24h", roles: brokers},
		{key: "broker.dedup.max-keys", flag: noFlag, def: number(dedup.DefaultLimit), roles: brokers},
		{key: "broker.cluster", flag: "cluster", def: "DefaultCluster", roles: brokers},
		{key: "broker.name", flag: "name", def: "broker-a", roles: brokers},
		{key: "broker.id", flag: "id", def: "0", roles: brokers},
		{key: "broker.advertise", flag: "advertise", roles: brokers},
		{key: "broker.topic.auto-create", flag: "auto-create-topics", def: "true", roles: brokers},
		{key: "broker.topic.default-queues", flag: "default-queues", def: "8", roles: brokers},
		{key: "rocketmq.namesrv.addr", flag: "namesrv", env: []string{"RMQ_NAMESRV", "NAMESRV_ADDR"}, def: defaultNameServer, roles: []string{roleBroker}},
	}
	for i := range knobs {
		k := &knobs[i]
		if k.flag == "" {
			k.flag = strings.ReplaceAll(k.key, ".", "-")
		}
		if k.env == nil {
			k.env = []string{"RMQ_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(k.key))}
		}
	}
	return knobs
}

// setting is a knob with the value that holds. The fields are API.
type setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// settings finds what holds for a role: flags before the environment before the
// file before the defaults.
func (a *app) settings(cmd *cobra.Command, role string) ([]setting, error) {
	knobs := serverKnobs(role)
	if err := foreignFlags(cmd, role, knobs); err != nil {
		return nil, err
	}
	file, err := readSettings(a.reach.configFile, knobs)
	if err != nil {
		return nil, err
	}
	var found []setting
	for _, k := range knobs {
		if k.appliesTo(role) {
			found = append(found, a.holds(cmd, k, file))
		}
	}
	return found, nil
}

func (a *app) holds(cmd *cobra.Command, k knob, file map[string]setting) setting {
	if f := cmd.Flags().Lookup(k.flag); f != nil && f.Changed {
		return setting{k.key, strings.Trim(f.Value.String(), "[]"), "--" + k.flag}
	}
	for _, name := range k.env {
		if v, ok := a.lookupEnv(name); ok && v != "" {
			return setting{k.key, v, name}
		}
	}
	if s, ok := file[k.key]; ok {
		return s
	}
	return setting{k.key, k.def, "default"}
}

// foreignFlags fails for a flag that has no meaning in the role.
func foreignFlags(cmd *cobra.Command, role string, knobs []knob) error {
	if cmd.Flags().Changed("namesrv-endpoint") {
		return usagef("--namesrv-endpoint is for clients; a server wants --namesrv")
	}
	for _, k := range knobs {
		if cmd.Flags().Changed(k.flag) && !k.appliesTo(role) {
			return usagef("--%s has no meaning for \"rmq server %s\"", k.flag, role)
		}
	}
	return nil
}

// readSettings reads a YAML file; a key that no knob has is an error.
func readSettings(path string, knobs []knob) (map[string]setting, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usagef("configuration file %s does not exist", path)
	}
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, usagef("%s: %v", path, err)
	}
	found := map[string]setting{}
	if len(doc.Content) == 0 {
		return found, nil
	}
	return found, flatten(path, "", doc.Content[0], knobs, found)
}

// flatten takes the values out of nested maps: a key is the path to its value.
func flatten(path, prefix string, n *yaml.Node, knobs []knob, found map[string]setting) error {
	if n.Kind != yaml.MappingNode {
		return usagef("%s:%d: want \"key: value\"", path, n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		key := prefix + name.Value
		if value.Kind == yaml.MappingNode {
			if err := flatten(path, key+".", value, knobs, found); err != nil {
				return err
			}
			continue
		}
		if err := knownKey(path, name.Line, key, knobs); err != nil {
			return err
		}
		text, err := scalar(path, value)
		if err != nil {
			return err
		}
		found[key] = setting{key, text, fmt.Sprintf("%s:%d", path, value.Line)}
	}
	return nil
}

func knownKey(path string, line int, key string, knobs []knob) error {
	var keys []string
	for _, k := range knobs {
		if k.key == key {
			return nil
		}
		keys = append(keys, k.key)
	}
	f := usagef("%s:%d: unknown key %q", path, line, key)
	if near := nearest(key, keys); len(near) > 0 {
		f.Hint = "did you mean " + orList(near) + "?"
	} else {
		f.Hint = "rmq server --check-config lists all keys"
	}
	return f
}

// scalar is a value, or a list of them joined by commas.
func scalar(path string, n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		return n.Value, nil
	case yaml.SequenceNode:
		var parts []string
		for _, c := range n.Content {
			part, err := scalar(path, c)
			if err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, ","), nil
	}
	return "", usagef("%s:%d: want a value", path, n.Line)
}

func settingTable() table[setting] {
	return table[setting]{
		name: func(s setting) string { return s.Key },
		columns: []column[setting]{
			{title: "KEY", cell: func(s setting) string { return s.Key }},
			{title: "VALUE", cell: func(s setting) string { return s.Value }},
			{title: "SOURCE", cell: func(s setting) string { return s.Source }},
		},
	}
}
