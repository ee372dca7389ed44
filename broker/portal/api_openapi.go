package portal

import (
	"context"
	"net/http"
	"regexp"
	"strings"
)

// apiOpenAPI describes the API (OpenAPI 3.1), made of the permission table, so
// that it cannot differ from what is served.
func (p *Portal) apiOpenAPI(context.Context, *caller, *http.Request) (any, error) {
	paths := map[string]map[string]any{}
	for _, e := range p.endpoints() {
		op := map[string]any{
			"summary":     e.summary,
			"operationId": operationID(e),
			"responses": map[string]any{
				"200":     map[string]any{"description": "Done."},
				"default": map[string]any{"description": "An error.", "content": map[string]any{"application/json": map[string]any{"schema": map[string]any{"$ref": "#/components/schemas/Error"}}}},
			},
		}
		var params []any
		for _, name := range pathParam.FindAllStringSubmatch(e.path, -1) {
			params = append(params, map[string]any{"name": name[1], "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
		}
		if params != nil {
			op["parameters"] = params
		}
		if e.needs.public {
			op["security"] = []any{}
		} else {
			op["security"] = []any{map[string]any{"oauth": []string{e.needs.scope}}, map[string]any{"session": []string{}}}
		}
		if len(e.needs.roles) > 0 {
			op["x-gatehouse-roles"] = append([]Role{RoleAdmin}, e.needs.roles...)
		}
		if paths[e.path] == nil {
			paths[e.path] = map[string]any{}
		}
		paths[e.path][strings.ToLower(e.method)] = op
	}
	return map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "Gatehouse", "version": "v1", "license": map[string]any{"name": "Apache-2.0", "identifier": "Apache-2.0"}},
		"servers": []any{map[string]any{"url": p.issuer + "/api/v1"}},
		"paths":   paths,
		"components": map[string]any{
			"schemas": map[string]any{"Error": map[string]any{
				"type":     "object",
				"required": []string{"error", "code", "message", "ref"},
				"properties": map[string]any{
					"error":   map[string]any{"type": "string"},
					"code":    map[string]any{"type": "string", "description": "Stable, independent of the language."},
					"message": map[string]any{"type": "string"},
					"ref":     map[string]any{"type": "string", "description": "Give this to support."},
				},
			}},
			"securitySchemes": map[string]any{
				"oauth": map[string]any{"type": "oauth2", "flows": map[string]any{"authorizationCode": map[string]any{
					"authorizationUrl": p.issuer + "/oauth2/authorize", "tokenUrl": p.issuer + "/oauth2/token",
					"scopes": map[string]string{ScopeAccount: "Look after one's own account", ScopeSupport: "Look after users", ScopeAudit: "Read everything", ScopeAdmin: "Everything"},
				}}},
				"session": map[string]any{"type": "apiKey", "in": "cookie", "name": p.edge.CookieName("gatehouse"), "description": "The portal's own pages only."},
			},
		},
	}, nil
}

var pathParam = regexp.MustCompile(`\{([a-z]+)\}`)

func operationID(e endpoint) string {
	id := strings.ToLower(e.method)
	for _, part := range strings.FieldsFunc(e.path, func(r rune) bool { return strings.ContainsRune("/{}.-", r) }) {
		id += strings.ToUpper(part[:1]) + part[1:]
	}
	return id
}
