package portal

import (
	"context"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"time"
)

// apiOpenAPI describes the API (OpenAPI 3.1), made of the permission table, so
// that it cannot differ from what is served.
func (p *Portal) apiOpenAPI(context.Context, *caller, *http.Request) (any, error) {
	paths := map[string]map[string]any{}
	for _, e := range p.endpoints() {
		if paths[e.path] == nil {
			paths[e.path] = map[string]any{}
		}
		paths[e.path][strings.ToLower(e.method)] = operation(e)
	}
	str := map[string]any{"type": "string"}
	return map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "Gatehouse", "version": "v1", "license": map[string]any{"name": "Apache-2.0", "identifier": "Apache-2.0"}},
		"servers": []any{map[string]any{"url": p.issuer + apiPrefix}},
		"paths":   paths,
		"components": map[string]any{
			"schemas": map[string]any{"Error": map[string]any{
				"type":     "object",
				"required": []string{"error", "code", "message", "ref"},
				"properties": map[string]any{
					"error":   str,
					"code":    map[string]any{"type": "string", "description": "Stable, independent of the language."},
					"message": str,
					"ref":     map[string]any{"type": "string", "description": "Give this to support."},
				},
			}},
			"securitySchemes": map[string]any{
				"oauth": map[string]any{"type": "oauth2", "flows": map[string]any{"authorizationCode": map[string]any{
					"authorizationUrl": p.issuer + "/oauth2/authorize", "tokenUrl": p.issuer + "/oauth2/token",
					"scopes": map[string]string{ScopeAccount: "Look after one's own account", ScopeStorage: "Borrow storage credentials", ScopeSupport: "Look after users", ScopeAudit: "Read everything", ScopeAdmin: "Everything"},
				}}},
				"session":  map[string]any{"type": "apiKey", "in": "cookie", "name": p.edge.CookieName("gatehouse"), "description": "The portal's own pages only."},
				"operator": map[string]any{"type": "http", "scheme": "bearer", "description": "The content of data/admin.token, on admin_listen only."},
			},
		},
	}, nil
}

func operation(e endpoint) map[string]any {
	failed := map[string]any{"description": "An error.", "content": content(map[string]any{"$ref": "#/components/schemas/Error"})}
	responses := map[string]any{"default": failed}
	if e.answer == nil {
		responses["204"] = map[string]any{"description": "Done."}
	} else {
		responses["200"] = map[string]any{"description": "Done.", "content": content(schema(reflect.TypeOf(e.answer)))}
	}
	op := map[string]any{"summary": e.summary, "operationId": operationID(e), "responses": responses}
	var params []any
	param := func(in, name string, required bool) {
		params = append(params, map[string]any{"name": name, "in": in, "required": required, "schema": map[string]any{"type": "string"}})
	}
	for _, name := range pathParam.FindAllStringSubmatch(e.path, -1) {
		param("path", name[1], true)
	}
	for _, name := range e.query {
		param("query", name, false)
	}
	if params != nil {
		op["parameters"] = params
	}
	if e.body != nil {
		op["requestBody"] = map[string]any{"required": true, "content": content(schema(reflect.TypeOf(e.body)))}
	}
	// Any one of these is enough.
	security := []any{}
	for _, scope := range e.needs.scopes {
		security = append(security, map[string]any{"oauth": []string{scope}})
	}
	if !e.needs.public {
		security = append(security, map[string]any{"session": []string{}})
	}
	if len(e.needs.roles) > 0 {
		security = append(security, map[string]any{"operator": []string{}})
		op["x-gatehouse-roles"] = append([]Role{RoleAdmin}, e.needs.roles...)
	}
	op["security"] = security
	return op
}

func content(schema map[string]any) map[string]any {
	return map[string]any{"application/json": map[string]any{"schema": schema}}
}

// schema describes a type as encoding/json writes it.
func schema(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Struct:
		props, required := map[string]any{}, []string{}
		for _, f := range reflect.VisibleFields(t) {
			name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Anonymous || name == "" {
				continue
			}
			props[name] = schema(f.Type)
			if !strings.HasPrefix(opts, "omit") {
				required = append(required, name)
			}
		}
		return map[string]any{"type": "object", "properties": props, "required": required}
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": schema(t.Elem())}
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object"}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Int, t.Kind() == reflect.Uint64:
		return map[string]any{"type": "integer"}
	}
	return map[string]any{"type": "string"}
}

var pathParam = regexp.MustCompile(`\{([a-z]+)\}`)

func operationID(e endpoint) string {
	id := strings.ToLower(e.method)
	for _, part := range strings.FieldsFunc(e.path, func(r rune) bool { return strings.ContainsRune("/{}.-", r) }) {
		id += strings.ToUpper(part[:1]) + part[1:]
	}
	return id
}
